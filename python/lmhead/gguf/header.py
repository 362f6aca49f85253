"""Reads the header of a GGUF file with the suspicion that a stranger's file deserves: every count is checked against the
bytes that there are before anything is read, which the readers of the package gguf do not."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmhead.command import RequestError

VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
MOST_NESTING = 4
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies; `shape` has the fastest dimension last, as in NumPy."""

    name: str
    shape: tuple[int, ...]
    type: int  # of gguf.GGMLQuantizationType
    offset: int  # from the beginning of the file


@dataclass(frozen=True)
class Header:
    fields: dict[str, Any]
    tensors: dict[str, TensorInfo]


class _Reader:
    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.at = data, path, 0

    def refuse(self, must: str) -> RequestError:
        return RequestError(f"{self.path} must be a whole GGUF file: {must}")

    def take(self, size: int, what: str) -> int:
        """Moves past `size` bytes and returns where they begin."""
        begin = self.at
        if size > len(self.data) - begin:
            raise self.refuse(f"{what} at byte {begin} needs {size} bytes, got {len(self.data) - begin}")
        self.at = begin + size
        return begin

    def numbers(self, code: str, count: int, what: str) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{count}{code}") if count < 1 << 28 else None
        size = layout.size if layout else count
        begin = self.take(size, what)
        if layout is None:
            raise self.refuse(f"{what} has {count} entries")
        return layout.unpack_from(self.data, begin)

    def number(self, code: str, what: str) -> Any:
        return self.numbers(code, 1, what)[0]

    def text(self, what: str) -> str:
        size = self.number("Q", what)
        begin = self.take(size, what)
        return self.data[begin : begin + size].decode("utf-8", "replace")

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind == STRING:
            return self.text(what)
        if kind != ARRAY:
            if kind not in SCALARS:
                raise self.refuse(f"{what} has a known type, got {kind}")
            return self.number(SCALARS[kind], what)
        if depth >= MOST_NESTING:
            raise self.refuse(f"{what} is nested at most {MOST_NESTING} deep")
        inner, count = self.number("I", what), self.number("Q", what)
        if inner in SCALARS:
            return list(self.numbers(SCALARS[inner], count, what))
        if count > (len(self.data) - self.at) // 8:  # each has a length of eight bytes at least
            raise self.refuse(f"{what} has {count} entries, more than there are bytes for")
        return [self.value(inner, what, depth + 1) for _ in range(count)]


def read_header(data: mmap.mmap, path: Path) -> Header:
    """Fields and tensors of a mapped file. Raises RequestError, naming the file and what is wrong with it."""
    reader = _Reader(data, path)
    if data[:4] != b"GGUF":
        raise reader.refuse("it begins with GGUF")
    reader.at = 4
    version = reader.number("I", "the version")
    if version not in VERSIONS:
        raise reader.refuse(f"of version 2 or 3, little-endian, got version {version}")
    tensor_count, field_count = reader.number("Q", "the count of tensors"), reader.number("Q", "the count of fields")
    fields: dict[str, Any] = {}
    for index in range(field_count):
        key = reader.text(f"key {index}")
        if key in fields:
            raise reader.refuse(f"a key stands there once, got {key[:80]!r} twice")
        fields[key] = reader.value(reader.number("I", f"the type of {key[:80]!r}"), repr(key[:80]))
    found: list[TensorInfo] = []
    for index in range(tensor_count):
        name = reader.text(f"the name of tensor {index}")
        dimensions = reader.number("I", f"the dimensions of {name[:80]!r}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise reader.refuse(f"{name[:80]!r} has 1 to {MOST_DIMENSIONS} dimensions, got {dimensions}")
        shape = tuple(reversed(reader.numbers("Q", dimensions, f"the shape of {name[:80]!r}")))
        kind, offset = reader.number("I", f"the type of {name[:80]!r}"), reader.number("Q", f"the offset of {name[:80]!r}")
        found.append(TensorInfo(name, shape, kind, offset))
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise reader.refuse(f"general.alignment is a small count of bytes, got {alignment!r:.80}")
    start = -(-reader.at // alignment) * alignment
    tensors = {one.name: TensorInfo(one.name, one.shape, one.type, start + one.offset) for one in found}
    if len(tensors) != len(found):
        raise reader.refuse("every tensor has a name of its own, got one twice")
    return Header(fields, tensors)
