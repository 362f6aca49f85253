"""Compressed streams, known by their suffix or by their first bytes, and unpacked as they are read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import IO

ZSTD_INPUT_BYTES = 512  # unpack to 16 MiB at most: four bytes can stand for 128 KiB
SHORT_TAR_NAMES = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2", ".tzst": ".tar.zst"}
BUFFER_BYTES = 1 << 18


class ZstdStream(io.RawIOBase):
    """A Zstandard file, also of several frames. Unlike the package's own reader it sees that a file is cut short."""

    def __init__(self, stream: IO[bytes]):
        import zstandard

        self._stream = stream
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._error = zstandard.ZstdError
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = self._plain = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._plain:
            packed = self._packed or self._stream.read(ZSTD_INPUT_BYTES)
            self._packed = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a Zstandard frame")
                return 0
            self._frame = self._frame or self._unpacker.decompressobj()
            try:
                self._plain = self._frame.decompress(packed)
            except self._error as error:
                raise OSError(str(error)) from None
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count


def open_gzip(stream: IO[bytes]) -> IO[bytes]:
    return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]


def open_zstd(stream: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(ZstdStream(stream), BUFFER_BYTES)


COMPRESSIONS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": open_gzip,
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".zst": open_zstd,
}
SIGNATURES = {
    ".gz": re.compile(rb"\x1f\x8b\x08"),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
# What reading packed files throws where they are broken.
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


def describe(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def split_name(name: str) -> tuple[str, str | None]:
    """A file's name without its compression suffix, and that suffix: ("a.jsonl", ".gz"); ("a.tar", ".xz") for a.txz."""
    lower = name.lower()
    for short, long in SHORT_TAR_NAMES.items():
        if lower.endswith(short):
            lower = lower[: -len(short)] + long
    for suffix in COMPRESSIONS:
        if lower.endswith(suffix):
            return lower[: -len(suffix)], suffix
    return lower, None


def compression_of(head: bytes) -> str | None:
    """The suffix that files which open with these bytes should have."""
    return next((suffix for suffix, signature in SIGNATURES.items() if signature.match(head)), None)
