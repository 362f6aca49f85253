"""How the ids of a model stand for text, as the evaluation harness asks: a tokenizer of transformers, or plain bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmhead.command import RequestError


class ByteTokenizer:
    """Ids 0 to 255 are the bytes of UTF-8; `end` ends a document and has no text."""

    bos_token = bos_token_id = chat_template = None

    def __init__(self, end: int | None) -> None:
        self.eos_token_id = end
        self.name_or_path = "bytes"

    def encode(self, string: str, add_special_tokens: bool = False) -> list[int]:
        return list(string.encode("utf-8"))

    def decode(self, tokens: int | Iterable[int], skip_special_tokens: bool = True) -> str:
        ids = [tokens] if isinstance(tokens, int) else tokens
        return bytes(token for token in ids if token < 256).decode("utf-8", errors="replace")


def open_tokenizer(description: dict[str, Any], folder: str | os.PathLike[str]) -> Any:
    """The tokenizer of the model that `Scorer.description` describes; `folder` is where it lies.

    Raises RequestError where there is none. A pretrained model's is what transformers makes of its folder, a run's is its
    dataset's, with the token that ends documents as `eos_token`.
    """
    if description["is_bytes"]:
        return ByteTokenizer(description["end_of_document"])
    if description["tokenizer"] is None:
        raise RequestError(f"{os.fspath(folder)} must have a tokenizer to be evaluated on text, got none")
    import transformers

    if description["kind"] == "pretrained":
        return transformers.AutoTokenizer.from_pretrained(os.fspath(folder))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=description["tokenizer"])
    tokenizer.name_or_path = str(Path(description["tokenizer"]).parent)
    if description["end_of_document"] is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(description["end_of_document"])
    return tokenizer
