"""The beginning of a safetensors file that is written tensor by tensor, for what does not fit into memory at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import BinaryIO

BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}


def write_header(file: BinaryIO, tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: dict[str, str] | None = None) -> None:
    """Announces tensors of a name, type and shape each, whose little-endian bytes must follow in this order."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, kind, shape in tensors:
        end = at + math.prod(shape) * BYTES[kind]
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
