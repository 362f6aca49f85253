"""Streams of text in any encoding, read as UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import IO

from lmhead.command import RequestError
from lmhead.prepare.recognise import MOST_UNDECODABLE, undecodable, undecodable_share

BLOCK_BYTES = 1 << 18


def codec_name(encoding: str) -> str:
    """Python's own name of a text encoding: "utf-8" for UTF8. Throws where there is none of that name."""
    try:
        name = codecs.lookup(encoding).name
        is_text = isinstance(codecs.getincrementaldecoder(encoding)("replace").decode(b"", True), str)
    except (LookupError, ValueError, TypeError, AssertionError):  # of codecs that are not of text
        is_text = False
    if not is_text:
        raise RequestError(f"--encoding must be an encoding of text that Python knows, got {encoding!r}")
    return "utf-8" if name == "utf-8-sig" else name  # a byte order mark is no text in either


class Utf8Stream(io.RawIOBase):
    """A stream of text in `encoding`, as UTF-8 and without a byte order mark.

    Bytes of UTF-8 itself that cannot be decoded stay as they are, those of other encodings become U+FFFD. Throws at the
    end where they are more than 1 % of the file.
    """

    def __init__(self, name: str, stream: IO[bytes], encoding: str):
        self._name, self._stream, self._encoding = name, stream, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = memoryview(b"")
        self._size = self._replaced = 0
        self._at_start, self._at_end = True, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready and not self._at_end:
            self._ready = memoryview(self._next())
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _next(self) -> bytes:
        block = self._stream.read(BLOCK_BYTES)
        self._at_end = not block
        self._size += len(block)
        if self._encoding == "utf-8":
            if self._at_start and block:
                self._at_start = False
                block = block.removeprefix(codecs.BOM_UTF8)
            if self._at_end or not block.isascii() or self._decoder.getstate()[0]:
                self._replaced += self._decoder.decode(block, self._at_end).count("\ufffd")
                self._replaced -= block.count("\ufffd".encode())
        else:
            text = self._decoder.decode(block, self._at_end)
            self._replaced += text.count("\ufffd")
            if self._at_start and text:
                self._at_start = False
                text = text.removeprefix("\ufeff")
            block = text.encode("utf-8", "replace")
        share = undecodable_share(self._replaced, self._size)
        if self._at_end and share > MOST_UNDECODABLE:
            raise RequestError(f"{self._name} must be text, got {undecodable(share, self._encoding)}")
        return block
