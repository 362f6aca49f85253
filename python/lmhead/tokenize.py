"""Turns text into token ids for `lmhead measure --text`; a user rarely runs it.

    lmhead-tokenize --out FOLDER [--tokenizer FILE] [--max-tokens N] -- TEXT...

A file is a document, and so is each line of a .jsonl file (its `text`). A document is encoded as the model's own
tokenizer would, beginning-of-text token included. FOLDER gets tokens.bin and lengths.bin (docs/files.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy

from lmhead import prepare_text

PIECE_BYTES = 1 << 24  # longer documents are cut after a line end: the tokenizer holds a piece several times over


class TokenizeError(Exception):
    """The request cannot be carried out; the text says what must hold and what was found."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every verb does."""

    def error(self, message: str) -> NoReturn:
        raise TokenizeError(f"{message}; {' '.join(self.format_usage().split())}")


class BytesEncoder:
    """Every byte is a token."""

    vocab_size = 257  # with the end of a document

    def encode(self, piece: bytes, is_first: bool) -> tuple[numpy.ndarray, numpy.ndarray]:
        return numpy.frombuffer(piece, numpy.uint8).astype("<u4"), numpy.ones(len(piece), "<u4")


class TokenizerEncoder:
    """A tokenizer.json, with the tokens that its template puts around a text."""

    def __init__(self, path: str):
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # tokenizers raises nothing narrower
            reason = " ".join(str(error).split())[:120]
            raise TokenizeError(f"{path} must be a tokenizer.json of Hugging Face tokenizers, got: {reason}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # their names in a text are text like any other
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, piece: bytes, is_first: bool) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Ids of a piece of text, and how many of its UTF-8 bytes each stands for; they sum to all of them."""
        text = piece.decode("utf-8", "replace")
        encoding = self._tokenizer.encode(text, add_special_tokens=is_first)
        # Where each character ends, counted in bytes; tokens that share a character give it to the first of them.
        codes = numpy.frombuffer(text.encode("utf-32-le"), "<u4")
        ends = numpy.concatenate([[0], numpy.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000))])
        reached = numpy.maximum.accumulate(numpy.array([end for _, end in encoding.offsets], numpy.int64))
        if len(reached):
            reached[-1] = len(codes)  # what a normaliser dropped at the end belongs to the last token
        through = ends[reached]
        return numpy.array(encoding.ids, "<u4"), numpy.diff(through, prepend=0).astype("<u4")


def documents(paths: list[str]) -> Iterator[Iterator[bytes]]:
    """The pieces of each document; one without text is left out."""
    for path in paths:
        lines = prepare_text.split_name(path)[0].endswith(".jsonl")
        if lines:
            for record in prepare_text.Corpus([path]):
                yield iter([record])
        else:
            yield iter(prepare_text.Corpus([path], document_bytes=PIECE_BYTES))


def tokenize(paths: list[str], encoder: BytesEncoder | TokenizerEncoder, out: Path, most: int | None) -> list[int]:
    """Writes tokens.bin and lengths.bin; the tokens of each document, as many as give `most` targets."""
    counts: list[int] = []
    left = most if most is not None else sys.maxsize
    with open(out / "tokens.bin", "wb") as tokens, open(out / "lengths.bin", "wb") as lengths:
        for pieces in documents(paths):
            count = 0
            for piece in pieces:
                if left + 1 - count <= 0:
                    break
                ids, sizes = encoder.encode(piece, count == 0)
                kept = min(len(ids), left + 1 - count)  # the first token is no target
                tokens.write(ids[:kept].tobytes())
                lengths.write(sizes[:kept].tobytes())
                count += kept
            if count:
                counts.append(count)
                left -= count - 1
            if left <= 0:
                break
    return counts


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="lmhead-tokenize", description="Turn text into token ids for lmhead measure.")
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="text or .jsonl files, also .gz and .xz")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json (default: every byte is a token)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="stop after so many targets")
    arguments = parser.parse_args(argv)
    if arguments.max_tokens is not None and arguments.max_tokens < 1:
        raise TokenizeError(f"--max-tokens must be at least 1, got {arguments.max_tokens}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    try:
        arguments = parse(argv)
        encoder = TokenizerEncoder(arguments.tokenizer) if arguments.tokenizer else BytesEncoder()
        out = Path(arguments.out)
        out.mkdir(parents=True, exist_ok=True)
        counts = tokenize(arguments.texts, encoder, out, arguments.max_tokens)
        if not counts:
            raise TokenizeError(f"--text must hold text, got none in {', '.join(arguments.texts)}")
        description = {"tokenizer": arguments.tokenizer or "bytes", "vocab_size": encoder.vocab_size,
                       "document_tokens": counts}
        (out / "tokens.json").write_text(json.dumps(description), encoding="utf-8")
        return 0
    except (TokenizeError, prepare_text.PrepareError) as error:
        print(f"[tokenize] {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"[tokenize] {error.filename or '--out'} must be writable, got: {prepare_text.describe(error)}",
              file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
