"""What stands behind any compression of a file: its name without the suffixes, its first bytes, and its stream."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from lmhead.prepare.compression import BUFFER_BYTES, COMPRESSIONS, compression_of, split_name
from lmhead.prepare.recognise import HEAD_BYTES, UNPACK, NotText

DEEPEST = 4  # of compression, and of archives in one another


class Following(io.RawIOBase):
    """What was read ahead of a stream, followed by the rest of it."""

    def __init__(self, head: bytes, stream: IO[bytes]):
        self._head, self._stream = memoryview(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self._head:
            return self._stream.readinto(buffer)  # type: ignore[attr-defined]
        count = min(len(buffer), len(self._head))
        buffer[:count], self._head = self._head[:count], self._head[count:]
        return count


class Unpacked(NamedTuple):
    name: str  # in lower case, without suffixes of compression
    head: bytes  # HEAD_BYTES, or the whole file
    stream: IO[bytes]  # from the start, read once
    was_packed: bool

    @property
    def is_whole(self) -> bool:
        """Whether the head is all of the file."""
        return len(self.head) < HEAD_BYTES


def unpack(name: str, stream: IO[bytes]) -> Unpacked:
    """By suffix, and by content where the suffix does not tell. Throws NotText where there is no end to it."""
    name, was_packed = name.lower(), False
    for _ in range(DEEPEST + 1):
        name, compression = split_name(name)
        if compression is None:
            head = b""
            while len(head) < HEAD_BYTES and (block := stream.read(HEAD_BYTES - len(head))):
                head += block
            stream = io.BufferedReader(Following(head, stream), BUFFER_BYTES)
            compression = compression_of(head)
        if compression is None:
            return Unpacked(name, head, stream, was_packed)
        stream, was_packed = COMPRESSIONS[compression](stream), True
    raise NotText(f"compressed more than {DEEPEST} times", UNPACK)


@contextlib.contextmanager
def spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """The rest of a stream as a temporary file, which can seek."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, BUFFER_BYTES)
        file.seek(0)
        yield file
