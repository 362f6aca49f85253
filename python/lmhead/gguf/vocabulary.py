"""The tokenizer of a GGUF file as a tokenizer.json of Hugging Face tokenizers."""

from __future__ import annotations

from typing import Any

from lmhead.command import RequestError
from lmhead.vocabularies import add_tokens, byte_level, prepend, sentence_pieces

CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
# tokenizer.ggml.pre, and what cuts a text before merges.
CUTS = {"gpt-2": "gpt2", "gpt2": "gpt2", "smollm": "smollm", "llama-bpe": "llama3", "llama3": "llama3", "dbrx": "dbrx", "qwen2": "qwen2"}


def _field(fields: dict[str, Any], key: str, kind: type, length: int | None = None) -> list[Any]:
    value = fields.get(f"tokenizer.ggml.{key}")
    fits = isinstance(value, list) and all(isinstance(one, kind) for one in value) and length in (None, len(value))
    if not fits or value is None:
        raise RequestError(f"tokenizer.ggml.{key} must be a list of {length or 'some'} {kind.__name__}, got "
                           f"{'none' if value is None else 'another'}")
    return value


def build(fields: dict[str, Any]) -> Any:
    """A tokenizers.Tokenizer. Raises RequestError, naming the field, on what cannot be told or is not known."""
    tokens = _field(fields, "tokens", str)
    if not tokens:
        raise RequestError("tokenizer.ggml.tokens must hold tokens, got none")
    types = _field(fields, "token_type", int, len(tokens)) if "tokenizer.ggml.token_type" in fields else [1] * len(tokens)
    model = fields.get("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer = _byte_level(fields, tokens)
        adds_first = fields.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3")
    elif model == "llama":
        tokenizer = _sentence_pieces(fields, tokens)
        adds_first = True
    else:
        raise RequestError(f"tokenizer.ggml.model must be gpt2 or llama, got {model!r:.80}")
    add_tokens(tokenizer, [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL],
               [token for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED])
    first = fields.get("tokenizer.ggml.bos_token_id")
    if fields.get("tokenizer.ggml.add_bos_token", adds_first) and isinstance(first, int) and 0 <= first < len(tokens):
        prepend(tokenizer, tokens[first], first)
    return tokenizer


def _byte_level(fields: dict[str, Any], tokens: list[str]) -> Any:
    pre = fields.get("tokenizer.ggml.pre")
    if not isinstance(pre, str) or pre not in CUTS:
        raise RequestError(f"tokenizer.ggml.pre must be one of {', '.join(CUTS)}, got {pre!r:.80}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return byte_level(vocabulary, _field(fields, "merges", str), CUTS[pre], "tokenizer.ggml.merges")


def _sentence_pieces(fields: dict[str, Any], tokens: list[str]) -> Any:
    scores = [float(score) for score in _field(fields, "scores", float, len(tokens))]
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 0)
    if not isinstance(unknown, int) or not 0 <= unknown < len(tokens):
        raise RequestError(f"tokenizer.ggml.unknown_token_id must be below {len(tokens)}, got {unknown!r:.80}")
    return sentence_pieces(tokens, scores, unknown, prefix=bool(fields.get("tokenizer.ggml.add_space_prefix", True)))
