"""Tokenizers that are no tokenizer.json: vocab.json with merges.txt beside it, and the tokenizer.model of SentencePiece.

Either becomes the tokenizer.json that stands for it, so that there is one way of encoding. What stands beside it counts:
tokenizer_config.json (its class, added tokens, add_bos_token), special_tokens_map.json, added_tokens.json.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lmhead.command import RequestError, load
from lmhead.json_trees import parse
from lmhead.vocabularies import add_tokens, byte_level, prepend, sentence_pieces

VOCABULARY, MERGES, MODEL_SUFFIX = "vocab.json", "merges.txt", ".model"
LARGEST_FILE = 1 << 28
# tokenizer_class, and what cuts a text before merges.
CUTS = {"GPT2Tokenizer": "gpt2", "CodeGenTokenizer": "gpt2", "Qwen2Tokenizer": "qwen2"}
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def is_slow(path: str) -> bool:
    """Whether a file is one of those that this module reads."""
    return os.path.basename(path) == VOCABULARY or path.endswith(MODEL_SUFFIX)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise RequestError(f"{path} must be a regular file, got none")
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise RequestError(f"{path} must be readable, got: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise RequestError(f"{path} must have at most {LARGEST_FILE} bytes, got more")
    return content


def _read_object(path: Path, must_exist: bool = False) -> dict[str, Any]:
    if not must_exist and not path.exists():
        return {}
    try:
        value = parse(_read(path))
    except ValueError as error:
        raise RequestError(f"{path} must be JSON, got {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise RequestError(f"{path} must be an object, got {type(value).__name__}")
    return value


def _text(value: Any) -> str | None:
    """The token that a configuration names, as a string or as an AddedToken."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None


def _add(tokenizer: Any, folder: Path, config: dict[str, Any]) -> None:
    """Added tokens, in the order of their ids, which must be those that they are said to have."""
    named = [_text(source.get(key)) for source in (config, _read_object(folder / "special_tokens_map.json")) for key in SPECIAL]
    special = {name for name in named if name is not None and tokenizer.token_to_id(name) is not None}
    wanted: dict[int, tuple[str, bool]] = {}
    for name, number in _read_object(folder / "added_tokens.json").items():
        if not isinstance(number, int):
            raise RequestError(f"added_tokens.json must name ids, got {number!r:.80} of {name!r:.80}")
        wanted[number] = (name, name in named)
    decoder = config.get("added_tokens_decoder")
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        text = _text(token)
        if text is None or not number.isdigit():
            raise RequestError(f"added_tokens_decoder must name tokens by their ids, got {number!r:.80}")
        wanted[int(number)] = (text, isinstance(token, dict) and bool(token.get("special")))
    add_tokens(tokenizer, sorted(special))
    for number, (name, is_special) in sorted(wanted.items()):
        add_tokens(tokenizer, [name] if is_special else [], [] if is_special else [name])
        if tokenizer.token_to_id(name) != number:
            raise RequestError(f"the added token {name!r:.80} must have the id {number}, got {tokenizer.token_to_id(name)}")


def _byte_level(path: Path, config: dict[str, Any]) -> Any:
    name = str(config.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    if name not in CUTS:
        raise RequestError(f"{path}: tokenizer_class must be one of {', '.join(CUTS)}, got {name!r:.80}")
    vocabulary = _read_object(path, must_exist=True)
    ids = list(vocabulary.values())
    if not ids or not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 1 << 31 for one in ids) or len(set(ids)) != len(ids):
        raise RequestError(f"{path} must map tokens to different ids, got others")
    merges = path.parent / MERGES
    lines = _read(merges).decode("utf-8", "replace").split("\n")
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    return byte_level(vocabulary, [line for line in lines if line], CUTS[name], str(merges))


def _sentence_pieces(path: Path) -> tuple[Any, str | None, int]:
    """The tokenizer, and the token that opens a text with its id, where there is one."""
    from tokenizers import Regex, normalizers

    load("sentencepiece", "sentencepiece")
    proto = load("sentencepiece.sentencepiece_model_pb2", "sentencepiece").ModelProto()
    try:
        proto.ParseFromString(_read(path))
    except RequestError:
        raise
    except Exception as error:  # protobuf's own
        raise RequestError(f"{path} must be a model of SentencePiece, got {type(error).__name__}") from None
    for field in ("trainer_spec", "normalizer_spec"):  # which stand behind the pieces, so that a file that is cut lacks them
        if not proto.HasField(field):
            raise RequestError(f"{path} must be a whole model of SentencePiece, got one without its {field}")
    pieces, spec, normalizer = list(proto.pieces), proto.trainer_spec, proto.normalizer_spec
    unigram, bpe = 1, 2
    if spec.model_type not in (unigram, bpe):
        raise RequestError(f"{path} must be a BPE or unigram model, got model_type {spec.model_type}")
    unknown = [index for index, piece in enumerate(pieces) if piece.type == 2]
    if len(unknown) != 1:
        raise RequestError(f"{path} must have one unknown piece, got {len(unknown)}")
    first: list[Any] = [normalizers.Precompiled(normalizer.precompiled_charsmap)] if normalizer.precompiled_charsmap else []
    if normalizer.remove_extra_whitespaces:
        first += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer = sentence_pieces([piece.piece for piece in pieces], [piece.score for piece in pieces], unknown[0],
                                prefix=normalizer.add_dummy_prefix, is_unigram=spec.model_type == unigram, normalizers_first=first)
    add_tokens(tokenizer, [piece.piece for piece in pieces if piece.type == 3], [piece.piece for piece in pieces if piece.type == 4])
    opens = 0 <= spec.bos_id < len(pieces) and pieces[spec.bos_id].type == 3
    return tokenizer, pieces[spec.bos_id].piece if opens else None, spec.bos_id


def as_tokenizer_json(given: str) -> bytes:
    """The tokenizer.json that stands for vocab.json or tokenizer.model. Raises RequestError, naming the file."""
    path = Path(given)
    config = _read_object(path.parent / "tokenizer_config.json")
    try:
        if path.name == VOCABULARY:
            tokenizer = _byte_level(path, config)
            name, token, opens = _text(config.get("bos_token")), None, False
        else:
            tokenizer, name, token = _sentence_pieces(path)
            opens = True
        _add(tokenizer, path.parent, config)
        if name is not None and config.get("add_bos_token", opens):
            number = tokenizer.token_to_id(name) if token is None else token
            if number is None:
                raise RequestError(f"{path}: bos_token must be a token, got {name!r:.80}")
            prepend(tokenizer, name, number)
        return str(tokenizer.to_str()).encode()
    except RequestError:
        raise
    except Exception as error:  # tokenizers raises Exception itself
        raise RequestError(f"{path} must be a tokenizer, got {type(error).__name__}: {' '.join(str(error).split())[:120]}") from None
