"""The sidecar of a dataset, dataset.json, as the programs in Python read it; docs/files.md has its keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmhead.command import RequestError

FORMAT, VERSION = "lmhead-dataset", 1
KEYS = ("vocab_size", "token_type", "tokenizer", "tokenizer_hash", "end_of_document", "splits", "content_hash")


def read_sidecar(folder: Path) -> dict[str, Any]:
    """Raises RequestError, naming the folder, where there is none or one that `lmhead prepare` did not write."""
    path = folder / "dataset.json"
    try:
        if not path.is_file():  # a pipe would make it wait
            raise ValueError("no file")
        sidecar = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise RequestError(f"{folder} must be a folder that `lmhead prepare` wrote, got no dataset.json that can be "
                           "read") from None
    if not isinstance(sidecar, dict) or sidecar.get("format") != FORMAT or sidecar.get("version") != VERSION:
        raise RequestError(f"{path} must be the sidecar of a dataset, format {FORMAT!r} and version {VERSION}, got another")
    missing = [key for key in KEYS if key not in sidecar]
    if missing:
        raise RequestError(f"{path} must have the key {missing[0]!r}, got none")
    return sidecar
