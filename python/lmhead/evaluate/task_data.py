"""The data of the harness's tasks from local copies, for machines without a network.

A copy is DATA/REPOSITORY/CONFIGURATION/SPLIT.parquet, the repository's slash as two underscores and a configuration without
a name as `default`; `sources.json` says where each came from, with rows and SHA-256. `lmhead evaluate --fetch-data` makes
them. Prompts, requests and metrics stay the harness's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from lmhead.command import RequestError

SOURCES = "sources.json"


def default_folder() -> Path:
    """$LMHEAD_EVALUATION_DATA, or a folder of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LMHEAD_EVALUATION_DATA") or Path(cache) / "lmhead" / "evaluation-data")


def set_folder(repository: str, configuration: str | None) -> Path:
    """Where a set lies in DATA."""
    return Path(repository.replace("/", "__")) / (configuration or "default")


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_sources(data: Path) -> dict[str, Any]:
    """What `sources.json` says of every copy. Raises RequestError where it is not what --fetch-data wrote."""
    file = data / SOURCES
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file} must be what lmhead evaluate --fetch-data wrote, got: {' '.join(str(error).split())}") from None
    if not isinstance(known, dict) or not all(isinstance(of, dict) for of in known.values()):
        raise RequestError(f"{file} must be what lmhead evaluate --fetch-data wrote, got {'nothing' if known is None else 'something else'}")
    return known


class LocalSplits(dict):
    """The splits of one set. Where another is asked for validation stands for it, else test; `replaced` remembers which."""

    def __init__(self, splits: dict[str, Any]) -> None:
        super().__init__(splits)
        self.replaced: dict[str, str] = {}

    def __missing__(self, split: str) -> Any:
        for other in ("validation", "test"):
            if other in self:
                self.replaced[split] = other
                return self[other]
        raise KeyError(split)


def load_set(data: Path, repository: str, configuration: str | None) -> LocalSplits:
    """Reads a set, checking every file against its hash. Raises RequestError where it is not there or was changed."""
    import datasets
    import pyarrow.parquet

    relative = set_folder(repository, configuration)
    files = sorted((data / relative).glob("*.parquet"))
    name = repository if configuration is None else f"{repository} ({configuration})"
    if not files:
        raise RequestError(f"the data of {name} must lie in {data / relative} for --offline, got none: lmhead evaluate "
                           "--fetch-data makes what can be had without the hub")
    known = read_sources(data)
    splits = {}
    for file in files:
        want = known.get(str(relative / file.name), {}).get("sha256")
        if sha256(file) != want:
            raise RequestError(f"{file} must have the SHA-256 that {data / SOURCES} names, got another")
        splits[file.stem] = datasets.Dataset(datasets.table.InMemoryTable(pyarrow.parquet.read_table(file)))
    return LocalSplits(splits)


@contextlib.contextmanager
def offline(data: Path) -> Iterator[None]:
    """Within it the harness's tasks take their sets from `data` and nothing from the hub."""

    def load_dataset(path: str, name: str | None = None, **_: Any) -> LocalSplits:
        return load_set(data, path, name)

    with mock.patch("datasets.load_dataset", load_dataset):
        yield


def check_examples(task: Any) -> None:
    """Raises RequestError where the task's few-shot examples would come from a split that is not there."""
    shots = task.config.num_fewshot or 0
    split = task.config.fewshot_split or task.config.training_split
    if shots > 0 and isinstance(task.dataset, LocalSplits) and split and split not in task.dataset:
        raise RequestError(f"few-shot examples of {task.config.task} must come from its split {split}, got a local copy of "
                           f"{', '.join(task.dataset)} alone: give --num-fewshot 0")
