"""Turns text into token ids for `lmhead measure --text`; a user rarely runs it.

    lmhead-tokenize --out FOLDER [--tokenizer FILE] [--max-tokens N] [--bos WHERE [--bos-id ID]] -- TEXT...

Texts are read as `lmhead prepare` reads them, but a file of plain text is one document, however long. A document is
encoded as the model's own tokenizer would, beginning-of-text token included, unless --bos says where that one stands.
FOLDER gets tokens.bin, lengths.bin and tokens.json (docs/files.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy

from lmhead.command import Parser, RequestError, carry_out
from lmhead.formats import one_line
from lmhead.prepare.compression import describe
from lmhead.prepare.corpus import Corpus
from lmhead.prepare.encoders import not_a_tokenizer, tokenizer_file
from lmhead.prepare.files import recorded
from lmhead.prepare.options import add_text_arguments, text_options

PIECE_BYTES = 1 << 24  # longer documents are cut after a line end: the tokenizer holds a piece several times over


class BytesEncoder:
    """Every byte is a token."""

    vocab_size = 257  # with the end of a document
    beginning: int | None = None

    def encode(self, piece: bytes, is_first: bool) -> tuple[numpy.ndarray, numpy.ndarray]:
        return numpy.frombuffer(piece, numpy.uint8).astype("<u4"), numpy.ones(len(piece), "<u4")


class TemplateEncoder:
    """A tokenizer.json, with the tokens that its template puts around a text, or what `bos` says in their place."""

    def __init__(self, path: str, bos: str | None = None, bos_id: int | None = None):
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_file(path))
        except RequestError:
            raise
        except Exception as error:
            raise not_a_tokenizer(path, error) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # their names in a text are text like any other
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._has_template = bos is None
        self.beginning: int | None = None if bos in (None, "none") else self._own_beginning(bos_id)
        self._opens_documents = bos == "first"

    def _own_beginning(self, bos_id: int | None) -> int:
        """The token that the template opens a text with, else the one that the model's configuration names."""
        opened = self._tokenizer.encode("a", add_special_tokens=True)
        if opened.ids and opened.special_tokens_mask[0]:
            return int(opened.ids[0])
        if bos_id is None:
            raise RequestError("the model must have a beginning-of-text token for --bos, got none in its tokenizer and its configuration")
        return bos_id

    def encode(self, piece: bytes, is_first: bool) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Ids of a piece of text, and how many of its UTF-8 bytes each stands for; they sum to all of them."""
        text = piece.decode("utf-8", "replace")
        encoding = self._tokenizer.encode(text, add_special_tokens=is_first and self._has_template)
        # Where each character ends, counted in bytes; tokens that share a character give it to the first of them.
        codes = numpy.frombuffer(text.encode("utf-32-le"), "<u4")
        ends = numpy.concatenate([[0], numpy.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000))])
        reached = numpy.maximum.accumulate(numpy.array([end for _, end in encoding.offsets], numpy.int64))
        if len(reached):
            reached[-1] = len(codes)  # what a normaliser dropped at the end belongs to the last token
        through = ends[reached]
        ids, sizes = numpy.array(encoding.ids, "<u4"), numpy.diff(through, prepend=0).astype("<u4")
        if is_first and self._opens_documents and self.beginning is not None:
            ids, sizes = numpy.insert(ids, 0, self.beginning), numpy.insert(sizes, 0, 0)
        return ids, sizes


def tokenize(
    corpus: Corpus, pieces_are_documents: bool, encoder: BytesEncoder | TemplateEncoder, out: Path, most: int | None, context: int = 1
) -> list[int]:
    """Writes tokens.bin and lengths.bin; the tokens of each document, as many as give `most` targets.

    `context` tokens of a document are no targets: the first, unless another stands before every window.
    """
    counts: list[int] = []
    left = most if most is not None else sys.maxsize
    count = 0  # of the document that is being read
    with open(out / "tokens.bin", "wb") as tokens, open(out / "lengths.bin", "wb") as lengths:
        for piece in corpus:
            if count and (piece.opens or pieces_are_documents):
                counts.append(count)
                left -= count - context
                count = 0
            room = left + context - count
            if left <= 0 or room <= 0:
                break
            ids, sizes = encoder.encode(piece.text, count == 0)
            tokens.write(ids[:room].tobytes())
            lengths.write(sizes[:room].tobytes())
            count += min(len(ids), room)
    return counts + [count] if count else counts


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="lmhead-tokenize", description="Turn text into token ids for lmhead measure.")
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="what lmhead prepare reads")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json, vocab.json or tokenizer.model (default: every byte is a token)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="stop after so many targets")
    parser.add_argument("--bos", choices=("every-window", "first", "none"), help="where the beginning-of-text token stands (default: as the tokenizer has it)")
    parser.add_argument("--bos-id", type=int, metavar="ID", help="that token, where the tokenizer adds none by itself")
    add_text_arguments(parser, "none")
    arguments = parser.parse_args(argv)
    if arguments.max_tokens is not None and arguments.max_tokens < 1:
        raise RequestError(f"--max-tokens must be at least 1, got {arguments.max_tokens}")
    return arguments


def request(argv: list[str] | None) -> None:
    arguments = parse(argv)
    options = text_options(arguments)
    pieces_are_documents = options.document_bytes is not None
    if not pieces_are_documents:
        options = dataclasses.replace(options, document_bytes=PIECE_BYTES)
    if not arguments.tokenizer and arguments.bos not in (None, "none"):
        raise RequestError(f"the model must have a tokenizer for --bos {arguments.bos}, got plain bytes")
    encoder = TemplateEncoder(arguments.tokenizer, arguments.bos, arguments.bos_id) if arguments.tokenizer else BytesEncoder()
    corpus = Corpus(arguments.texts, options)
    out = Path(arguments.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        context = 0 if arguments.bos == "every-window" else 1
        counts = tokenize(corpus, pieces_are_documents, encoder, out, arguments.max_tokens, context)
        if not counts:
            passed = f": {corpus.passed}" if corpus.passed else ""
            raise RequestError(f"--text must hold text, got none in {', '.join(arguments.texts)}{passed}")
        if corpus.passed:
            print(f"[tokenize] {one_line(corpus.passed)}", file=sys.stderr)
        description = {
            "tokenizer": recorded(arguments.tokenizer or "bytes"),
            "vocab_size": encoder.vocab_size,
            "document_tokens": counts,
        }
        if encoder.beginning is not None:
            description |= {"bos": arguments.bos, "beginning": encoder.beginning}
        (out / "tokens.json").write_text(json.dumps(description), encoding="utf-8")
    except OSError as error:  # those of reading have been told apart
        raise RequestError(f"{error.filename or '--out'} must be writable, got: {describe(error)}") from None


def main(argv: list[str] | None = None) -> int:
    return carry_out("tokenize", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
