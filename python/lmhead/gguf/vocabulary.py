"""The tokenizer of a GGUF file as a tokenizer.json of Hugging Face tokenizers."""

from __future__ import annotations

from typing import Any

from lmhead.command import RequestError

CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
# tokenizer.ggml.pre: what cuts a text before merges, None being GPT-2's own; by its name in GGUF.
SPLITS: dict[str, str | None] = {
    "gpt-2": None, "gpt2": None, "smollm": None, "llama-bpe": LLAMA3_SPLIT, "llama3": LLAMA3_SPLIT, "dbrx": LLAMA3_SPLIT,
    "qwen2": QWEN2_SPLIT,
}  # fmt: skip


def _field(fields: dict[str, Any], key: str, kind: type, length: int | None = None) -> list[Any]:
    value = fields.get(f"tokenizer.ggml.{key}")
    fits = isinstance(value, list) and all(isinstance(one, kind) for one in value) and length in (None, len(value))
    if not fits or value is None:
        raise RequestError(f"tokenizer.ggml.{key} must be a list of {length or 'some'} {kind.__name__}, got "
                           f"{'none' if value is None else 'another'}")
    return value


def merges_of_scores(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """The merges of a SentencePiece BPE: every way to make a piece of two, the piece of highest score first."""
    ids = {token: index for index, token in enumerate(tokens)}
    ways = [
        (-score, ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in zip(tokens, scores, strict=True)
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    return [(left, right) for *_, left, right in sorted(ways)]


def build(fields: dict[str, Any]) -> Any:
    """A tokenizers.Tokenizer. Raises RequestError, naming the field, on what cannot be told or is not known."""
    import tokenizers
    from tokenizers import AddedToken, processors

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
    special = [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    plain = [AddedToken(token, special=False, normalized=False) for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)
    first = fields.get("tokenizer.ggml.bos_token_id")
    if fields.get("tokenizer.ggml.add_bos_token", adds_first) and isinstance(first, int) and 0 <= first < len(tokens):
        name = tokens[first]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[name, "$A"], pair=[name, "$A", name, "$B:1"], special_tokens=[(name, first)])
    assert isinstance(tokenizer, tokenizers.Tokenizer)
    return tokenizer


def _byte_level(fields: dict[str, Any], tokens: list[str]) -> Any:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pre = fields.get("tokenizer.ggml.pre")
    if not isinstance(pre, str) or pre not in SPLITS:
        raise RequestError(f"tokenizer.ggml.pre must be one of {', '.join(SPLITS)}, got {pre!r:.80}")
    merges = [tuple(merge.split(" ", 1)) for merge in _field(fields, "merges", str)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if not all(len(pair) == 2 and {*pair, "".join(pair)} <= vocabulary.keys() for pair in merges):
        raise RequestError("tokenizer.ggml.merges must be pairs of tokens that make a token, got another")
    split = SPLITS[pre]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split == LLAMA3_SPLIT and pre != "dbrx"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    if split is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(tokenizers.Regex(split), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])  # fmt: skip
    elif pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_pieces(fields: dict[str, Any], tokens: list[str]) -> Any:
    import tokenizers
    from tokenizers import decoders, models, normalizers

    scores = [float(score) for score in _field(fields, "scores", float, len(tokens))]
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 0)
    if not isinstance(unknown, int) or not 0 <= unknown < len(tokens):
        raise RequestError(f"tokenizer.ggml.unknown_token_id must be below {len(tokens)}, got {unknown!r:.80}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(
        vocabulary, merges_of_scores(tokens, scores), unk_token=tokens[unknown], fuse_unk=True, byte_fallback="<0x00>" in vocabulary))
    prefix = fields.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    stripped = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *stripped])
    return tokenizer
