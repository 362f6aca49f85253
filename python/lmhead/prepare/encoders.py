"""Ids from documents: plain bytes, a byte-level BPE trained on the spot, or a tokenizer.json."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable

import numpy

from lmhead.command import RequestError
from lmhead.formats import one_line
from lmhead.prepare.compression import UNREADABLE, describe
from lmhead.prepare.files import require_file
from lmhead.prepare.recognise import NotText
from lmhead.prepare.slow_tokenizers import as_tokenizer_json, is_slow
from lmhead.prepare.splitting import cut
from lmhead.prepare.unpacking import unpack

END_OF_DOCUMENT = "<|endoftext|>"
# What published tokenizers call the end of a document, in the order in which they are looked for.
END_OF_DOCUMENT_NAMES = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")
SMALLEST_BPE = 257  # every byte, and the end of a document
LARGEST_TOKENIZER = 1 << 28
TRAINING_PIECE_BYTES = 1 << 16  # the trainer reads 256 items ahead


class Encoder:
    """Turns documents into ids."""

    vocab_size: int
    end_of_document: int | None
    json: bytes | None  # the tokenizer's file
    hash: str

    def encode(self, documents: list[bytes]) -> tuple[list[numpy.ndarray], int]:
        """The ids of each document, and how many UTF-8 bytes of text they stand for."""
        raise NotImplementedError


class ByteEncoder(Encoder):
    """Ids 0 to 255 are the bytes themselves, undecodable ones included; 256 ends a document."""

    vocab_size, end_of_document, json = 257, 256, None
    hash = "bytes"

    def encode(self, documents: list[bytes]) -> tuple[list[numpy.ndarray], int]:
        return [numpy.frombuffer(document, numpy.uint8) for document in documents], sum(map(len, documents))


class TokenizerEncoder(Encoder):
    """A tokenizer of Hugging Face tokenizers, without its template, truncation and padding.

    Bytes that are not UTF-8 become U+FFFD. The names of special tokens in a document are text like any other.
    """

    def __init__(self, content: bytes, end_of_document: str | None = None):
        import tokenizers

        self.json = content
        self.hash = hashlib.sha256(content).hexdigest()
        self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise RequestError("the tokenizer must have a vocabulary, got an empty one")
        self.vocab_size = max(vocabulary.values()) + 1
        if end_of_document is not None and end_of_document not in vocabulary:
            raise RequestError(f"--end-of-document must be a token of the tokenizer, got {end_of_document!r}")
        names = (end_of_document,) if end_of_document is not None else END_OF_DOCUMENT_NAMES
        self.end_of_document = next((vocabulary[name] for name in names if name in vocabulary), None)

    def encode(self, documents: list[bytes]) -> tuple[list[numpy.ndarray], int]:
        texts = [document.decode("utf-8", "replace") for document in documents]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [numpy.array(encoding.ids, numpy.uint32) for encoding in encodings], sum(
            len(text.encode()) for text in texts)


def tokenizer_file(path: str) -> bytes:
    """The content of a tokenizer.json, also compressed; at most LARGEST_TOKENIZER bytes. Of a vocab.json or tokenizer.model
    the tokenizer.json that stands for it."""
    require_file(path, "--tokenizer")
    if is_slow(path):
        return as_tokenizer_json(path)
    try:
        with open(path, "rb") as file:
            content = unpack(path, file).stream.read(LARGEST_TOKENIZER + 1)
    except (*UNREADABLE, NotText) as error:
        raise RequestError(f"--tokenizer must be readable, got {path!r}: {describe(error)}") from None
    if len(content) > LARGEST_TOKENIZER:
        raise RequestError(f"--tokenizer must have at most {LARGEST_TOKENIZER} bytes, got more in {path!r}")
    return content


def not_a_tokenizer(path: str, error: BaseException) -> RequestError:
    """For what tokenizers throws, of no narrower kind than Exception."""
    reason = one_line(error)[:120]
    return RequestError(f"--tokenizer must be a tokenizer.json of Hugging Face tokenizers, got {path!r}: {reason}")


def read_tokenizer(path: str, end_of_document: str | None) -> TokenizerEncoder:
    content = tokenizer_file(path)
    try:
        return TokenizerEncoder(content, end_of_document)
    except RequestError:
        raise
    except Exception as error:
        raise not_a_tokenizer(path, error) from None


def train_bpe(documents: Iterable[bytes], vocab_size: int) -> TokenizerEncoder:
    """Trains a byte-level BPE (GPT-2's scheme) whose last id ends a document; smaller where the text is too small.

    The same documents give the same tokenizer. Memory: the different words of the text, not the text.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    def pieces():
        for document in documents:
            for piece in cut(io.BytesIO(document), TRAINING_PIECE_BYTES):
                yield piece.decode("utf-8", "replace")

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(pieces(), trainer)
    tokenizer.add_special_tokens([END_OF_DOCUMENT])
    return TokenizerEncoder(tokenizer.to_str(pretty=True).encode())
