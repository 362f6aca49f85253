"""Scores that were computed before, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

WEIGHTS = ("config.json", "model.safetensors", "model.safetensors.index.json", "state.json")


def request_key(context: Sequence[int], continuation: Sequence[int]) -> str:
    """Names a request by its ids."""
    text = " ".join(map(str, context)) + "|" + " ".join(map(str, continuation))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def model_key(folder: str | os.PathLike[str], **settings: Any) -> str:
    """Names a model by the names, sizes and times of its files, and whatever else changes its scores."""
    root = Path(folder)
    files = sorted(
        (str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and (path.name in WEIGHTS or path.suffix == ".safetensors")
    )
    text = json.dumps([str(root.resolve()), files, settings], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class ScoreCache(MutableMapping[str, tuple[float, bool, int]]):
    """Scores by key, each a line of a JSONL file as soon as it is known; without a file they last as long as this."""

    def __init__(self, file: Path | None = None) -> None:
        self._scores: dict[str, tuple[float, bool, int]] = {}
        self._file = None
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a+b")
        self._file.seek(0)
        end = 0
        for line in self._file:
            try:
                key, *score = json.loads(line)
                self._scores[key] = (float(score[0]), bool(score[1]), int(score[2]))
            except (ValueError, TypeError, IndexError):  # cut off when a run was killed
                break
            end += len(line)
        self._file.truncate(end)

    def __getitem__(self, key: str) -> tuple[float, bool, int]:
        return self._scores[key]

    def __setitem__(self, key: str, score: tuple[float, bool, int]) -> None:
        self._scores[key] = score
        if self._file:
            self._file.write((json.dumps([key, *score]) + "\n").encode())

    def __delitem__(self, key: str) -> None:
        raise TypeError("scores stay")

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def flush(self) -> None:
        if self._file:
            self._file.flush()
