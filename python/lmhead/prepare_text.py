"""Documents from files, folders, archives and the standard library, one after another, never all at once."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import stat
import sysconfig
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

PYTHON_STDLIB = "python-stdlib"
DEFAULT_SUFFIXES = (".txt", ".md", ".rst", ".jsonl")
COMPRESSIONS = {".gz": gzip.open, ".xz": lzma.open}
SHORT_TAR_NAMES = {".tgz": ".tar.gz", ".txz": ".tar.xz"}
LONG_FILE_BYTES = 1 << 20
LONE_FILE_BYTES = 4096
STDLIB_SKIPPED = {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "lib-dynload"}
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError)


class PrepareError(Exception):
    """The request cannot be carried out; the text says what must hold and what was found."""


class InputFile(NamedTuple):
    name: str  # what messages call it
    path: Path
    size: int
    modified: int  # nanoseconds


def split_name(name: str) -> tuple[str, str | None]:
    """A file's name without its compression suffix, and that suffix: ("a.jsonl", ".gz"); ("a.tar", ".xz") for a.txz."""
    lower = name.lower()
    for short, long in SHORT_TAR_NAMES.items():
        if lower.endswith(short):
            name = lower = lower[: -len(short)] + long
    for suffix in COMPRESSIONS:
        if lower.endswith(suffix):
            return lower[: -len(suffix)], suffix
    return lower, None


def is_plain(name: str) -> bool:
    """Whether the file is text as it stands, once unpacked."""
    return not split_name(name)[0].endswith((".jsonl", ".tar"))


def cut(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Pieces of at most `limit` bytes, cut after a line end where there is one and never inside a UTF-8 character."""
    held = b""
    while True:
        while len(held) <= limit and (block := stream.read(limit + 1 - len(held))):
            held += block
        if len(held) <= limit:
            if held:
                yield held
            return
        end = held.rfind(b"\n", 0, limit) + 1
        if end == 0:
            end = limit
            while end > limit - 3 and held[end] & 0xC0 == 0x80:  # no more than three continuation bytes follow a lead
                end -= 1
        yield held[:end]
        held = held[end:]


def describe(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


class Corpus:
    """The documents of a request. Iterating reads the inputs from their start; memory: one document.

    A plain file is a document, one of more than `document_bytes` several; a line of a .jsonl file is a document; the
    members of a tar archive are read like the files of a folder. Each may be compressed (.gz, .xz). Undecodable bytes
    are kept here: what to do with them is the tokenizer's affair.
    """

    def __init__(self, inputs: list[str], suffixes: tuple[str, ...] = DEFAULT_SUFFIXES, text_field: str = "text",
                 document_bytes: int | None = None):
        self.suffixes = tuple(suffix.lower() for suffix in suffixes)
        self.text_field = text_field
        self.files = [file for given in inputs for file in self._files_of(given)]
        self.is_lone_file = len(inputs) == 1 and inputs != [PYTHON_STDLIB] and Path(inputs[0]).is_file() and is_plain(
            inputs[0])
        self.document_bytes = document_bytes or (LONE_FILE_BYTES if self.is_lone_file else LONG_FILE_BYTES)
        self.total_bytes = sum(file.size for file in self.files)
        self._finished_bytes = 0
        self._open_file: BinaryIO | None = None

    @property
    def read_bytes(self) -> int:
        """How much of the inputs' `total_bytes` the present iteration has read."""
        return self._finished_bytes + (self._open_file.tell() if self._open_file else 0)

    def state_hash(self) -> str:
        """Changes when an input file is added, removed or modified."""
        lines = (f"{file.name}\0{file.size}\0{file.modified}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        self._finished_bytes = 0
        for file in self.files:
            try:
                with open(file.path, "rb") as self._open_file:
                    yield from self._documents(file.name, self._open_file)
            except UNREADABLE as error:
                raise PrepareError(f"{file.name} must be readable, got: {describe(error)}") from None
            finally:
                self._open_file = None
            self._finished_bytes += file.size

    def _documents(self, name: str, stream: BinaryIO) -> Iterator[bytes]:
        bare, compression = split_name(name)
        if compression:
            with COMPRESSIONS[compression](stream) as unpacked:
                yield from self._unpacked_documents(name, bare, unpacked)
        else:
            yield from self._unpacked_documents(name, bare, stream)

    def _unpacked_documents(self, name: str, bare: str, stream: BinaryIO) -> Iterator[bytes]:
        if bare.endswith(".jsonl"):
            yield from self._records(name, stream)
        elif bare.endswith(".tar"):
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and self._wanted(member.name):
                        yield from self._documents(f"{name}:{member.name}", archive.extractfile(member))
        else:
            yield from cut(stream, self.document_bytes)

    def _records(self, name: str, stream: BinaryIO) -> Iterator[bytes]:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise PrepareError(f"{name}:{number} must be a line of JSON, got {excerpt(line)}") from None
            text = record.get(self.text_field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise PrepareError(f"{name}:{number} must be an object with the text {self.text_field!r}, "
                                   f"got {excerpt(line)}")
            if text:
                yield text.encode("utf-8", "replace")  # JSON can say half a surrogate pair, UTF-8 cannot

    def _wanted(self, name: str) -> bool:
        return split_name(PurePosixPath(name).name)[0].endswith(self.suffixes)

    def _files_of(self, given: str) -> list[InputFile]:
        if given == PYTHON_STDLIB:
            return standard_library_files()
        path = Path(given)
        try:
            if not path.is_dir():
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):
                    raise PrepareError(f"an input must be a file or a folder, got {given!r}")
                return [InputFile(given, path, status.st_size, status.st_mtime_ns)]
        except (OSError, ValueError) as error:
            raise PrepareError(f"an input must be a readable file or folder, got {given!r}: {describe(error)}") from None
        files = walk(path, lambda folder: not folder.startswith("."), self._wanted)
        if not files:
            raise PrepareError(f"a folder must hold files with a suffix of {' '.join(self.suffixes)} (--suffix), "
                               f"got none in {given!r}")
        return [file._replace(name=f"{given.rstrip('/')}/{file.name}") for file in files]


def excerpt(line: bytes) -> str:
    text = line.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def walk(root: Path, folder_wanted, file_wanted) -> list[InputFile]:
    """The wanted files below a folder, in the order of their paths; names are relative to it."""

    def refuse(error: OSError):
        raise PrepareError(f"{error.filename} must be readable, got: {describe(error)}")

    files = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if folder_wanted(name)]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and file_wanted(name) and path.is_file():
                status = path.stat()
                files.append(InputFile(path.relative_to(root).as_posix(), path, status.st_size, status.st_mtime_ns))
    return sorted(files)


def standard_library_files() -> list[InputFile]:
    """The sources of this Python's standard library, without tests and without what the machine's build wrote."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = walk(root, lambda folder: folder not in STDLIB_SKIPPED and not folder.startswith(("config-", ".")),
                 lambda name: name.endswith(".py") and not name.startswith("_sysconfigdata"))
    if not files:
        raise PrepareError(f"the corpus {PYTHON_STDLIB} must have sources, got no .py file in {str(root)!r}")
    return [file._replace(name=f"{PYTHON_STDLIB}/{file.name}") for file in files]
