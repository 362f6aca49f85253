"""A dataset folder: written from documents, recognised when it is there already, replaced in one rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy

from lmhead.command import RequestError
from lmhead.prepare.corpus import Corpus
from lmhead.prepare.encoders import Encoder
from lmhead.prepare.progress import Progress
from lmhead.sidecar import FORMAT, VERSION, read_sidecar

OUTPUT_NAMES = {"train.bin", "validation.bin", "dataset.json", "tokenizer.json"}
CHECKED_NAME = "checked.json"  # where training remembers which files it has compared with their hashes
BATCH_BYTES = 1 << 20


class SplitWriter:
    """Appends documents to the file of one split and counts them."""

    def __init__(self, path: Path, encoder: Encoder, token_type: numpy.dtype):
        self._file = open(path, "wb")
        self._encoder, self._token_type = encoder, token_type
        end = encoder.end_of_document
        self._end = b"" if end is None else numpy.array([end], token_type).tobytes()
        self._hash = hashlib.sha256()
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._name = path.name
        self.tokens = self.bytes = self.documents = 0

    def add(self, document: bytes) -> None:
        self._batch.append(document)
        self._batch_bytes += len(document)
        if self._batch_bytes >= BATCH_BYTES:
            self._flush()

    def close(self) -> dict:
        """Finishes the file and returns its entry in the sidecar."""
        self._flush()
        self._file.flush()
        os.fsync(self._file.fileno())
        self.abandon()
        return {"file": self._name, "tokens": self.tokens, "bytes": self.bytes, "documents": self.documents,
                "sha256": self._hash.hexdigest()}

    def abandon(self) -> None:
        self._file.close()

    def _flush(self) -> None:
        encoded, size = self._encoder.encode(self._batch)
        for ids in encoded:
            block = ids.astype(self._token_type).tobytes() + self._end
            self._file.write(block)
            self._hash.update(block)
            self.tokens += len(block) // numpy.dtype(self._token_type).itemsize
        self.bytes += size
        self.documents += len(self._batch)
        self._batch, self._batch_bytes = [], 0


def is_validation(document: bytes, fraction: float, seed: int) -> bool:
    digest = hashlib.blake2b(document, digest_size=8, salt=seed.to_bytes(16, "little")).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def content_hash(tokenizer_hash: str, train_hash: str, validation_hash: str) -> str:
    return hashlib.sha256(f"{tokenizer_hash}\n{train_hash}\n{validation_hash}\n".encode()).hexdigest()


def write_dataset(
    folder: Path,
    corpus: Corpus,
    request: dict,
    make_encoder: Callable[[Iterable[bytes]], Encoder],
    progress: Progress,
) -> dict:
    """Fills `folder` and returns the sidecar that was written last."""
    fraction, seed = request["validation_fraction"], request["seed"]

    def training_documents() -> Iterator[bytes]:
        for _, document in corpus:
            progress.show("learning the tokenizer", corpus.read_bytes, corpus.total_bytes)
            if not is_validation(document, fraction, seed):
                yield document

    encoder = make_encoder(training_documents())
    token_type = numpy.uint16 if encoder.vocab_size <= 1 << 16 else numpy.uint32
    stored = numpy.dtype(token_type).newbyteorder("<")
    writers = {name: SplitWriter(folder / f"{name}.bin", encoder, stored) for name in ("train", "validation")}
    try:
        for _, document in corpus:
            writers["validation" if is_validation(document, fraction, seed) else "train"].add(document)
            progress.show("encoding", corpus.read_bytes, corpus.total_bytes)
        splits = {name: writer.close() for name, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.abandon()
    documents = sum(split["documents"] for split in splits.values())
    if documents == 0:
        raise RequestError("the inputs must hold a document, got none; --suffix names what to read in folders and archives")
    for name, split in splits.items():
        if split["tokens"] == 0:
            raise RequestError(f"each split must get a document, got none for {name} of {documents} in all: make more "
                               "with a smaller --document-bytes, or choose another --validation-fraction or --seed")
    if encoder.json is not None:
        (folder / "tokenizer.json").write_bytes(encoder.json)
    sidecar = {
        "format": FORMAT, "version": VERSION, "vocab_size": encoder.vocab_size, "token_type": stored.name,
        "tokenizer": None if encoder.json is None else "tokenizer.json", "tokenizer_hash": encoder.hash,
        "end_of_document": encoder.end_of_document, "splits": splits,
        "content_hash": content_hash(encoder.hash, splits["train"]["sha256"], splits["validation"]["sha256"]),
        "source": {**request, "inputs_hash": corpus.state_hash()},
    }
    (folder / "dataset.json").write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    return sidecar


def file_hash(path: Path) -> str:
    """Throws OSError where there is no regular file: a pipe may never end."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no file", str(path))
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def present_dataset(out: Path) -> dict | None:
    """The sidecar of the dataset in `out`; None where nothing is there. Anything else there is left alone."""
    try:
        names = {entry.name for entry in out.iterdir()}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError(f"OUT must be a folder, or absent, got {str(out)!r}: {error.strerror}") from None
    if not names:
        return None
    try:
        sidecar = read_sidecar(out)
    except RequestError:
        sidecar = None
    foreign = sorted(names - OUTPUT_NAMES - {CHECKED_NAME})
    if foreign or sidecar is None:
        raise RequestError(f"OUT must be absent, empty or a dataset of lmhead prepare and nothing else, got "
                           f"{str(out)!r} with {(foreign or sorted(names))[0]!r}")
    return sidecar


def is_intact(out: Path, sidecar: dict) -> bool:
    """Whether every file is the one that the sidecar names."""
    try:
        summary(out, sidecar)  # needs the figures that it prints
        hashes = {split["file"]: split["sha256"] for split in sidecar["splits"].values()}
        if sidecar["tokenizer"] is not None:
            hashes[sidecar["tokenizer"]] = sidecar["tokenizer_hash"]
        return set(hashes) | {"dataset.json"} <= OUTPUT_NAMES and all(
            file_hash(out / name) == wanted for name, wanted in hashes.items())
    except (OSError, KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return False


def summary(out: Path, sidecar: dict) -> str:
    train, validation = sidecar["splits"]["train"], sidecar["splits"]["validation"]
    bytes_per_token = (train["bytes"] + validation["bytes"]) / (train["tokens"] + validation["tokens"])
    return (f"{out}: {train['tokens']:,} training and {validation['tokens']:,} validation tokens of "
            f"{train['documents'] + validation['documents']:,} documents, vocabulary {sidecar['vocab_size']:,}, "
            f"{bytes_per_token:.2f} bytes per token")
