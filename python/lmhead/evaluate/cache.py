"""Answers that were computed before, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from lmhead.command import RequestError

WEIGHTS = ("config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json", "state.json")


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


def generation_key(context: str, options: dict[str, Any]) -> str:
    """Names what is to be generated after a text."""
    text = json.dumps([context, options], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


Answer = tuple[Any, ...]  # log probability, greedy, tokens; or a text that was generated


def read_answer(line: bytes) -> tuple[str, Answer]:
    """Key and answer. Raises ValueError, TypeError, OverflowError or RecursionError where the line is none."""
    key, *answer = json.loads(line)
    if not isinstance(key, str):
        raise ValueError(key)
    if len(answer) == 1 and isinstance(answer[0], str):
        return key, (answer[0],)
    log_probability, is_greedy, tokens = answer
    if not isinstance(is_greedy, bool) or isinstance(log_probability, str) or isinstance(tokens, str):
        raise TypeError(answer)
    return key, (float(log_probability), is_greedy, int(tokens))


class AnswerCache(MutableMapping[str, Answer]):
    """Answers by key, each a line of a JSONL file once `flush` is called; without a file they last as long as this.

    Raises RequestError where the file cannot be read or written.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._answers: dict[str, Answer] = {}
        self._path, self._file = file, None
        self._fresh: list[bytes] = []
        if file is None:
            return
        with self._failures_told():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a+b", buffering=0)  # what could not be written is not tried again at the end
            self._file.seek(0)
            content = self._file.read()
            whole = content.rfind(b"\n") + 1  # what comes behind was cut off when a run was killed
            for line in content[:whole].split(b"\n")[:-1]:
                with contextlib.suppress(ValueError, TypeError, OverflowError, RecursionError):  # damaged: asked again
                    key, answer = read_answer(line)
                    self._answers[key] = answer
            self._file.truncate(whole)

    def __getitem__(self, key: str) -> Answer:
        return self._answers[key]

    def __setitem__(self, key: str, answer: Answer) -> None:
        self._answers[key] = answer
        if self._file:
            self._fresh.append((json.dumps([key, *answer]) + "\n").encode())

    def __delitem__(self, key: str) -> None:
        raise TypeError("answers stay")

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def flush(self) -> None:
        left = memoryview(b"".join(self._fresh))
        self._fresh.clear()
        with self._failures_told():
            while self._file and left:
                left = left[self._file.write(left) :]

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RequestError(f"answers must be kept in {self._path}, got: {error.strerror}; --cache names another folder, "
                               "--cache none keeps none") from None
