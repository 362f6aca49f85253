"""Texts from files, folders, archives, data sets and the standard library, one after another, never all at once."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from lmhead.command import RequestError
from lmhead.prepare import records, tables
from lmhead.prepare.archives import members_of_tar, members_of_zip
from lmhead.prepare.compression import BUFFER_BYTES, UNREADABLE, describe
from lmhead.prepare.decoding import Utf8Stream
from lmhead.prepare.files import OTHER_SUFFIX, PYTHON_STDLIB, InputFile, files_of, has_suffix, standard_library_files
from lmhead.prepare.options import TextOptions
from lmhead.prepare.passed_over import PassedOver
from lmhead.prepare.recognise import UNPACK, NotText, kind_of, require_text
from lmhead.prepare.splitting import cut, cut_at_marker
from lmhead.prepare.unpacking import DEEPEST, Unpacked, spooled, unpack

HUB_PREFIX = "hf:"
LONG_FILE_BYTES = 1 << 20
LONE_FILE_BYTES = 4096
READERS = {
    "jsonl": records.texts_of_json_lines,
    "json": records.texts_of_json,
    "csv": records.texts_of_csv,
    "tsv": records.texts_of_tsv,
    "parquet": tables.texts_of_parquet,
    "arrow": tables.texts_of_arrow,
}
SEEKING_KINDS = ("zip", "parquet", "arrow")


class Piece(NamedTuple):
    """Some text in UTF-8. What cannot be decoded is kept here: what to do with it is the tokenizer's affair."""

    opens: bool  # a document, whose other pieces follow
    text: bytes


class Corpus:
    """The texts of a request. Iterating reads the inputs from their start; memory: one piece or record.

    A file of plain text is a document, in pieces of at most `document_bytes`; a record of JSON or of a table is one in one
    piece; the members of archives are read like the files of a folder. A given file that is not text is refused, one
    that was found in a folder or archive is passed over.
    """

    def __init__(self, inputs: list[str], options: TextOptions | None = None):
        self.options = options = options or TextOptions()
        self.passed = PassedOver()
        self.files = [file for given in inputs for file in self._files_of(given)]
        self.is_lone_file = len(inputs) == 1 and self.files[0].is_named and is_plain(self.files[0])
        is_cut_small = self.is_lone_file and options.split_at is None
        self.document_bytes = options.document_bytes or (LONE_FILE_BYTES if is_cut_small else LONG_FILE_BYTES)
        self.total_bytes = sum(file.size for file in self.files)
        self._marker = (options.split_at or "").encode("utf-8", "surrogateescape")
        self._finished_bytes = 0
        self._open_file: IO[bytes] | None = None

    @property
    def read_bytes(self) -> int:
        """How much of the inputs' `total_bytes` the present iteration has read."""
        return self._finished_bytes + (self._open_file.tell() if self._open_file else 0)

    @property
    def uses_hub(self) -> bool:
        return any(file.name.startswith(HUB_PREFIX) for file in self.files)

    def state_hash(self) -> str:
        """Changes when an input file is added, removed or modified."""
        lines = (f"{file.name}\0{file.size}\0{file.modified}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def __iter__(self) -> Iterator[Piece]:
        self._finished_bytes = 0
        for file in self.files:
            if file.name.startswith(HUB_PREFIX):
                yield from self._records(tables.texts_of_hub(file.name, self.options))
                continue
            try:
                with open(file.path, "rb", BUFFER_BYTES) as self._open_file:
                    yield from self._pieces(file.name, self._open_file, file.is_named)
            except UNREADABLE as error:
                raise RequestError(f"{file.name} must be readable, got: {describe(error)}") from None
            finally:
                self._open_file = None
            self._finished_bytes += file.size

    def _pieces(self, name: str, stream: IO[bytes], is_named: bool, depth: int = 0) -> Iterator[Piece]:
        try:
            unpacked = unpack(name, stream)
            kind = self._kind(unpacked, depth)
        except NotText as error:
            if is_named:
                raise RequestError(f"{name} must be text, got {error}") from None
            self.passed.add(f"being {error.reason}", name)
            return
        with contextlib.ExitStack() as stack:
            content = unpacked.stream
            if kind not in SEEKING_KINDS + ("tar",):
                content = io.BufferedReader(Utf8Stream(name, content, self.options.encoding), BUFFER_BYTES)
            elif kind in SEEKING_KINDS and (unpacked.was_packed or depth):
                content = stack.enter_context(spooled(content))
            elif kind in SEEKING_KINDS:
                content = stream
                content.seek(0)
            if kind == "text":
                yield from self._plain(content)
            elif kind in READERS:
                yield from self._records(READERS[kind](name, content, self.options))
            else:
                members = members_of_tar(content) if kind == "tar" else members_of_zip(name, content)
                for member, inside in members:
                    if has_suffix(member, self.options.suffixes):
                        yield from self._pieces(f"{name}:{member}", inside, False, depth + 1)
                    else:
                        self.passed.add(OTHER_SUFFIX, f"{name}:{member}")

    def _kind(self, unpacked: Unpacked, depth: int) -> str:
        """What is to be read. Throws NotText where it is nothing that can be."""
        kind = kind_of(unpacked.name, unpacked.head)
        if kind in ("tar", "zip"):
            if depth == DEEPEST:
                raise NotText(f"an archive inside {DEEPEST} others", UNPACK)
        elif kind not in SEEKING_KINDS:
            is_known = kind != "text" or has_suffix(unpacked.name, self.options.suffixes)
            require_text(unpacked.head, unpacked.is_whole, self.options.encoding, is_known)
        return kind

    def _plain(self, stream: IO[bytes]) -> Iterator[Piece]:
        if self._marker:
            for opens, piece in cut_at_marker(stream, self._marker, self.document_bytes):
                yield Piece(opens, piece)
        else:
            for index, piece in enumerate(cut(stream, self.document_bytes)):
                yield Piece(index == 0, piece)

    def _records(self, texts: Iterator[bytes]) -> Iterator[Piece]:
        for text in texts:
            if self._marker:
                for opens, piece in cut_at_marker(io.BytesIO(text), self._marker, self.options.record_bytes):
                    yield Piece(opens, piece)
            elif text:
                yield Piece(True, text)

    def _files_of(self, given: str) -> list[InputFile]:
        if given == PYTHON_STDLIB:
            return standard_library_files()
        if given.startswith(HUB_PREFIX):
            return [InputFile(given, Path(), 0, 0)]
        return files_of(given, self.options.suffixes, self.passed)


def is_plain(file: InputFile) -> bool:
    """Whether a file is text as it stands, once unpacked; what is broken is found out when it is read."""
    try:
        with open(file.path, "rb", BUFFER_BYTES) as stream:
            unpacked = unpack(file.name, stream)
            return kind_of(unpacked.name, unpacked.head) == "text"
    except (*UNREADABLE, NotText):
        return True
