"""Makes a dataset from text: token ids in two files and a sidecar, as docs/files.md describes them.

    lmhead prepare OUT [INPUT ...] [--vocab-size 4096 | --tokenizer FILE | --bytes]

The text streams through twice, once to train the tokenizer and once to be encoded, and is never in memory. Each
document goes to training or validation by a hash of the seed and its own text: adding documents moves no other, and a
document that occurs twice is never in both. OUT appears whole, in one rename, or not at all.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from lmhead import prepare_text, prepare_tokens
from lmhead.prepare_dataset import is_intact, present_dataset, replace_folder, summary, write_dataset
from lmhead.prepare_progress import Progress
from lmhead.prepare_text import Corpus, PrepareError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every verb does."""

    def error(self, message: str) -> NoReturn:
        raise PrepareError(f"{message}; {' '.join(self.format_usage().split())}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="lmhead prepare", description="Make a dataset of token ids from text.")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("inputs", metavar="INPUT", nargs="*",
                        help="text files, .jsonl files, .tar archives, each also .gz or .xz, and folders of them")
    parser.add_argument("--corpus", choices=[prepare_text.PYTHON_STDLIB],
                        help="text that is already on this machine (the default where there is no INPUT)")
    parser.add_argument("--suffix", action="append", metavar=".txt", dest="suffixes",
                        help="what to read in folders and archives, also compressed; may be repeated (default: "
                        f"{' '.join(prepare_text.DEFAULT_SUFFIXES)})")
    parser.add_argument("--text-field", default="text", metavar="KEY", help="the text of a .jsonl line (default: text)")
    parser.add_argument("--document-bytes", type=int, metavar="N",
                        help="cut text files longer than this at line ends into several documents (default: "
                        f"{prepare_text.LONG_FILE_BYTES}, or {prepare_text.LONE_FILE_BYTES} for a single file)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--vocab-size", type=int, metavar="N", help="train a byte-level BPE of this size (default: 4096)")
    kind.add_argument("--tokenizer", metavar="FILE", help="use this tokenizer.json")
    kind.add_argument("--bytes", action="store_true", help="every byte is a token")
    parser.add_argument("--end-of-document", metavar="TOKEN",
                        help="the token of --tokenizer that ends a document (default: the usual names are looked for)")
    parser.add_argument("--validation-fraction", type=float, default=0.05, metavar="SHARE",
                        help="share of the documents that is kept for validation (default: 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="chooses which documents (default: 0)")
    parser.add_argument("--replace", action="store_true", help="replace a dataset in OUT that was made otherwise")
    options = parser.parse_args(argv)
    for holds, must in [
        (options.vocab_size is None or prepare_tokens.SMALLEST_BPE <= options.vocab_size <= 1 << 24,
         f"--vocab-size must be from {prepare_tokens.SMALLEST_BPE} (every byte and the end of a document) to {1 << 24}, "
         f"got {options.vocab_size}"),
        (0 < options.validation_fraction < 1,
         f"--validation-fraction must lie between 0 and 1, got {options.validation_fraction}"),
        (0 <= options.seed < 1 << 63, f"--seed must be from 0 to 2^63 - 1, got {options.seed}"),
        (options.document_bytes is None or options.document_bytes >= 16,
         f"--document-bytes must be at least 16, got {options.document_bytes}"),
        (all(options.suffixes or ["."]), "--suffix must not be empty"),
        (not (options.corpus and options.inputs), "--corpus must stand alone, got an INPUT too"),
        (options.end_of_document is None or options.tokenizer,
         "--end-of-document must come with --tokenizer, got it alone"),
    ]:
        if not holds:
            raise PrepareError(must)
    return options


def prepare(options: argparse.Namespace) -> str:
    """Carries out the request and returns one line that says what is there now."""
    inputs = options.inputs or [prepare_text.PYTHON_STDLIB]
    suffixes = tuple(options.suffixes or prepare_text.DEFAULT_SUFFIXES)
    corpus = Corpus(inputs, suffixes, options.text_field, options.document_bytes)
    if options.bytes:
        encoder, asked = prepare_tokens.ByteEncoder(), {"type": "bytes"}
    elif options.tokenizer:
        encoder = prepare_tokens.read_tokenizer(options.tokenizer, options.end_of_document)
        asked = {"type": "file", "sha256": encoder.hash, "end_of_document": options.end_of_document}
    else:
        encoder, asked = None, {"type": "bpe", "vocab_size": options.vocab_size or 4096}
    request = {"inputs": inputs, "suffixes": list(suffixes), "text_field": options.text_field,
               "document_bytes": corpus.document_bytes, "validation_fraction": options.validation_fraction,
               "seed": options.seed, "tokenizer": asked}

    def make_encoder(documents):
        return encoder or prepare_tokens.train_bpe(documents, asked["vocab_size"])

    out = Path(os.path.abspath(options.out))
    present = present_dataset(out)
    if present is not None:
        source = present.get("source")
        source = dict(source) if isinstance(source, dict) else {}
        unchanged = source.pop("inputs_hash", None) == corpus.state_hash()
        if source != request and not options.replace:
            differing = next((key for key in request if source.get(key) != request[key]), "source")
            raise PrepareError(f"OUT must hold a dataset of the same request, or --replace be given, got "
                               f"{options.out!r} with another {differing}")
        if source == request and unchanged and is_intact(out, present):
            return f"nothing to do for {summary(Path(options.out), present)}"
    progress = Progress("prepare")
    if corpus.is_lone_file and options.document_bytes is None:
        progress.say(f"one text file: cut at line ends into documents of at most {corpus.document_bytes} bytes")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        try:
            sidecar = write_dataset(fresh, corpus, request, make_encoder, progress)
        finally:
            progress.clear()
        replace_folder(fresh, out, Path(scratch))
    if asked["type"] == "bpe" and sidecar["vocab_size"] < asked["vocab_size"]:
        progress.say(f"the text is too small for {asked['vocab_size']} tokens: "
                     f"the vocabulary has {sidecar['vocab_size']}")
    if sidecar["end_of_document"] is None:
        progress.say("the tokenizer has none of the usual ends of a document: documents follow without one between them")
    return f"wrote {summary(Path(options.out), sidecar)}"


def main(argv: list[str] | None = None) -> int:
    def stop(signal_number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        print(f"[prepare] {prepare(parse(argv))}")
        return 0
    except PrepareError as error:
        print(f"[prepare] {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"[prepare] {error.filename or 'the dataset'} must be writable, got: {prepare_text.describe(error)}",
              file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("[prepare] stopped; nothing was written", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
