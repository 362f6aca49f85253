"""Tokenizers of Hugging Face tokenizers, made of a vocabulary and its merges or scores rather than of a tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lmhead.command import RequestError

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What cuts a text before merges, by whose it is; None is GPT-2's own, smollm's cuts digits too.
SPLITS: dict[str, str | None] = {
    "gpt2": None, "smollm": None, "llama3": LLAMA3_SPLIT, "dbrx": LLAMA3_SPLIT,
    "qwen2": LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}"),
}  # fmt: skip


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


def byte_level(vocabulary: dict[str, int], merges: Sequence[str], cut: str, who: str) -> Any:
    """A byte-level BPE of `merges` "LEFT RIGHT", best first; `cut` is a key of SPLITS.

    Raises RequestError that opens with `who` where a merge is none.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    if not all({left, right, left + right} <= vocabulary.keys() for left, right in pairs):
        raise RequestError(f"{who} must be pairs of tokens that make a token, got another")
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=cut == "llama3"))
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    split = SPLITS[cut]
    steps: list[Any] = []
    if split is not None:
        steps = [pre_tokenizers.Split(tokenizers.Regex(split), "isolated")]
    elif cut == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True)]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, last]) if steps else last
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_pieces(
    tokens: list[str],
    scores: list[float],
    unknown: int,
    *,
    prefix: bool,
    is_unigram: bool = False,
    normalizers_first: Iterable[Any] = (),
) -> Any:
    """A SentencePiece model, BPE by default; `prefix` puts a space before a text, as training did."""
    import tokenizers
    from tokenizers import decoders, models, normalizers

    falls_back = "<0x00>" in tokens
    model: Any
    if is_unigram:
        model = models.Unigram(list(zip(tokens, scores, strict=True)), unknown, falls_back)
    else:
        vocabulary = {token: index for index, token in enumerate(tokens)}
        model = models.BPE(vocabulary, merges_of_scores(tokens, scores), unk_token=tokens[unknown], fuse_unk=True, byte_fallback=falls_back)
    tokenizer = tokenizers.Tokenizer(model)
    steps = [normalizers.Prepend("\u2581")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*normalizers_first, *steps, normalizers.Replace(" ", "\u2581")])
    stripped = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *stripped])
    return tokenizer


def add_tokens(tokenizer: Any, special: Iterable[str], plain: Iterable[str] = ()) -> None:
    """Tokens that are found in a text whole, before anything else; special ones are not decoded."""
    from tokenizers import AddedToken

    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])


def prepend(tokenizer: Any, name: str, token: int) -> None:
    """Puts a token before every text."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=[name, "$A"], pair=[name, "$A", name, "$B:1"], special_tokens=[(name, token)])
