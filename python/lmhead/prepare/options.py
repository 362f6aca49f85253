"""How texts are read, whatever asks for them: the arguments that `lmhead prepare` and `lmhead measure` share."""

from __future__ import annotations

import argparse
import dataclasses

from lmhead.command import RequestError
from lmhead.prepare.decoding import codec_name

DEFAULT_SUFFIXES = (".txt", ".md", ".rst", ".jsonl")
RECORD_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class TextOptions:
    suffixes: tuple[str, ...] = DEFAULT_SUFFIXES
    text_field: str = "text"
    encoding: str = "utf-8"  # as Python calls it
    split_at: str | None = None
    split: str = "train"
    document_bytes: int | None = None  # of a piece of plain text; None: as the reader's user has it

    @property
    def record_bytes(self) -> int:
        """The longest line or record that is read."""
        return max(RECORD_BYTES, self.document_bytes or 0)


def add_text_arguments(parser: argparse.ArgumentParser, longest_document: str) -> None:
    add = parser.add_argument
    add("--suffix", action="append", metavar=".txt", dest="suffixes",
        help="what to read in folders and archives, also compressed, and what is text although it has NUL bytes; may be "
        f"repeated (default: {' '.join(DEFAULT_SUFFIXES)})")  # fmt: skip
    add("--text-field", default="text", metavar="KEY",
        help="the key of the text in .jsonl, .ndjson and .json, its column in .csv, .tsv, .parquet, .arrow and hf:NAME "
        "(default: text)")  # fmt: skip
    add("--split-at", metavar="MARKER", help="a text has several documents with this between them: '<|endoftext|>'")
    add("--encoding", default="utf-8", metavar="NAME", help="of the text, such as latin-1 or utf-16 (default: utf-8)")
    add("--split", default="train", metavar="NAME", help="the split of hf:NAME (default: train)")
    add("--document-bytes", type=int, metavar="N",
        help=f"cut text files longer than this at line ends into several documents (default: {longest_document}); "
        f"lines and records of more than {RECORD_BYTES} bytes are read up to this")  # fmt: skip


def text_options(arguments: argparse.Namespace) -> TextOptions:
    """What the arguments say. Throws where one has no meaning."""
    suffixes = tuple(suffix.lower() for suffix in arguments.suffixes or DEFAULT_SUFFIXES)
    if not all(suffixes):
        raise RequestError("--suffix must not be empty")
    if arguments.split_at == "":
        raise RequestError("--split-at must not be empty")
    if arguments.document_bytes is not None and arguments.document_bytes < 16:
        raise RequestError(f"--document-bytes must be at least 16, got {arguments.document_bytes}")
    return TextOptions(
        suffixes=suffixes,
        text_field=arguments.text_field,
        encoding=codec_name(arguments.encoding),
        split_at=arguments.split_at,
        split=arguments.split,
        document_bytes=arguments.document_bytes,
    )
