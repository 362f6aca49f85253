"""Makes a dataset from text: token ids in two files and a sidecar, as docs/files.md describes them.

    lmhead prepare OUT [INPUT ...] [--vocab-size 4096 | --tokenizer FILE | --bytes]

The text streams through twice, once to train the tokenizer and once to be encoded, and is never in memory. Each
document goes to training or validation by a hash of the seed and its own text: adding documents moves no other, and a
document that occurs twice is never in both. OUT appears whole, in one rename, or not at all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmhead.command import Parser, RequestError, carry_out
from lmhead.files import replace_folder
from lmhead.prepare import encoders
from lmhead.prepare.compression import describe
from lmhead.prepare.corpus import LONE_FILE_BYTES, LONG_FILE_BYTES, Corpus
from lmhead.prepare.dataset import is_intact, present_dataset, summary, write_dataset
from lmhead.prepare.files import PYTHON_STDLIB, recorded
from lmhead.prepare.options import add_text_arguments, text_options
from lmhead.prepare.progress import Progress
from lmhead.process import interruptions_deferred, interruptions_held


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="lmhead prepare", description="Make a dataset of token ids from text.")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        help="text files, .jsonl, .ndjson, .json, .csv, .tsv, .parquet and .arrow, .tar and .zip archives, each also .gz, "
        ".xz, .bz2 or .zst; folders of them; hf:NAME, a data set of the hub",
    )
    parser.add_argument(
        "--corpus",
        choices=[PYTHON_STDLIB],
        help="text that is already on this machine (the default where there is no INPUT)",
    )
    add_text_arguments(parser, f"{LONG_FILE_BYTES}, or {LONE_FILE_BYTES} for a single file without --split-at")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--vocab-size", type=int, metavar="N", help="train a byte-level BPE of this size (default: 4096)")
    kind.add_argument("--tokenizer", metavar="FILE", help="use this tokenizer.json, vocab.json (merges.txt beside it) or tokenizer.model")
    kind.add_argument("--bytes", action="store_true", help="every byte is a token")
    parser.add_argument("--end-of-document", metavar="TOKEN",
                        help="the token of --tokenizer that ends a document (default: the usual names are looked for)")
    parser.add_argument("--validation-fraction", type=float, default=0.05, metavar="SHARE",
                        help="share of the documents that is kept for validation (default: 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="chooses which documents (default: 0)")
    parser.add_argument("--replace", action="store_true", help="replace a dataset in OUT that was made otherwise")
    options = parser.parse_args(argv)
    smallest, largest = encoders.SMALLEST_BPE, 1 << 24
    for holds, must in [
        (options.vocab_size is None or smallest <= options.vocab_size <= largest,
         f"--vocab-size must be from {smallest} (every byte and the end of a document) to {largest}, "
         f"got {options.vocab_size}"),
        (0 < options.validation_fraction < 1,
         f"--validation-fraction must lie between 0 and 1, got {options.validation_fraction}"),
        (0 <= options.seed < 1 << 63, f"--seed must be from 0 to 2^63 - 1, got {options.seed}"),
        (not (options.corpus and options.inputs), "--corpus must stand alone, got an INPUT too"),
        (options.end_of_document is None or options.tokenizer,
         "--end-of-document must come with --tokenizer, got it alone"),
    ]:  # fmt: skip
        if not holds:
            raise RequestError(must)
    return options


def prepare(options: argparse.Namespace) -> str:
    """Carries out the request and returns one line that says what is there now."""
    inputs = options.inputs or [PYTHON_STDLIB]
    texts = text_options(options)
    corpus = Corpus(inputs, texts)
    encoder: encoders.Encoder | None = None
    vocab_size = options.vocab_size or 4096
    asked: dict[str, Any] = {"type": "bpe", "vocab_size": vocab_size}
    if options.bytes:
        encoder, asked = encoders.ByteEncoder(), {"type": "bytes"}
    elif options.tokenizer:
        encoder = encoders.read_tokenizer(options.tokenizer, options.end_of_document)
        asked = {"type": "file", "sha256": encoder.hash, "end_of_document": options.end_of_document}
    request: dict[str, Any] = {
        "inputs": [recorded(name) for name in inputs],
        "suffixes": list(texts.suffixes),
        "text_field": texts.text_field,
        "document_bytes": corpus.document_bytes,
        "validation_fraction": options.validation_fraction,
        "seed": options.seed,
        "tokenizer": asked,
    }
    if texts.encoding != "utf-8":
        request["encoding"] = texts.encoding
    if texts.split_at is not None:
        request["split_at"] = recorded(texts.split_at)
    if corpus.uses_hub:
        request["split"] = texts.split

    def make_encoder(documents: Iterable[bytes]) -> encoders.Encoder:
        return encoder or encoders.train_bpe(documents, vocab_size)

    out = Path(os.path.abspath(options.out))
    present = present_dataset(out)
    if present is not None:
        source = present.get("source")
        source = dict(source) if isinstance(source, dict) else {}
        unchanged = source.pop("inputs_hash", None) == corpus.state_hash()
        if source != request and not options.replace:
            keys = [*request, *source]
            differing = next((key for key in keys if source.get(key) != request.get(key)), "source")
            raise RequestError(
                f"OUT must hold a dataset of the same request, or --replace be given, got {options.out!r} with another "
                f"{differing}"
            )
        if source == request and unchanged and is_intact(out, present):
            return f"nothing to do for {summary(Path(options.out), present)}"
    progress = Progress("prepare")
    if corpus.is_lone_file and texts.split_at is None and texts.document_bytes is None:
        progress.say(f"one text file: cut at line ends into documents of at most {corpus.document_bytes} bytes")
    out.parent.mkdir(parents=True, exist_ok=True)
    with interruptions_deferred():
        scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    try:
        fresh = Path(scratch.name) / "fresh"
        fresh.mkdir()
        try:
            sidecar = write_dataset(fresh, corpus, request, make_encoder, progress)
        finally:
            progress.clear()
            if corpus.passed:
                progress.say(str(corpus.passed))
        with interruptions_held():
            replace_folder(fresh, out, Path(scratch.name))
            scratch.cleanup()
    finally:
        scratch.cleanup()
    if asked["type"] == "bpe" and sidecar["vocab_size"] < vocab_size:
        progress.say(f"the text is too small for {vocab_size} tokens: the vocabulary has {sidecar['vocab_size']}")
    if sidecar["end_of_document"] is None:
        progress.say("the tokenizer has none of the usual ends of a document: documents follow without one between them")
    return f"wrote {summary(Path(options.out), sidecar)}"


def request(argv: list[str] | None) -> str:
    try:
        return prepare(parse(argv))
    except OSError as error:  # those of reading have been told apart
        raise RequestError(f"{error.filename or 'OUT'} must be writable, got: {describe(error)}") from None


def main(argv: list[str] | None = None) -> int:
    return carry_out("prepare", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
