"""Fetches a model of the Hugging Face hub for `lmhead measure` and prints the folder that holds its files; of a `.gguf` file
the folder that stands for it (gguf/convert.py).

    lmhead-fetch [--] NAME[@REVISION] | FILE.gguf

The cache, HF_ENDPOINT, HF_HUB_OFFLINE and tokens are those of huggingface_hub. Configuration, tokenizer and safetensors
alone are fetched, shards under the names that the index has: pickled weights never are.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys

from lmhead.command import Parser, RequestError, carry_out
from lmhead.gguf.convert import convert, is_gguf

INDEX = "model.safetensors.index.json"
FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", INDEX,
         "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"]
PLAIN_NAME = re.compile(r"[A-Za-z0-9_+=@ -][A-Za-z0-9._+=@ -]*\.safetensors")  # as the native reader takes them


def shards(index: str) -> list[str]:
    """The files of weights that an index names. Throws RequestError on one that the native reader would refuse."""
    try:
        with open(index, encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"{INDEX} must have a weight_map from tensors to files, got {type(error).__name__}") from None
    for name in names:
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
            raise RequestError(f"{INDEX} must name .safetensors files of the same folder, got {name!r:.80}")
    return names


def fetch(name: str, revision: str | None = None) -> str:
    """The folder of the model's files in the cache. Throws RequestError, in one line, where they cannot be had."""
    import huggingface_hub

    try:
        # What the hub's library prints of its progress must not stand in our output.
        with contextlib.redirect_stdout(sys.stderr):
            get = functools.partial(huggingface_hub.snapshot_download, name, revision=revision)
            folder = get(allow_patterns=[*FILES, "model.safetensors"])
            index = os.path.join(folder, INDEX)
            if not os.path.isfile(os.path.join(folder, "model.safetensors")) and os.path.isfile(index):
                get(allow_patterns=shards(index))
    except RequestError:
        raise
    except Exception as error:  # of many kinds: names, network, rights, disk
        where = os.environ.get("HF_ENDPOINT", "the hub")
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"{name!r} must be a folder here or a model at {where}, got {type(error).__name__}: "
                         f"{reason}") from None
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise RequestError(f"{name!r} must have a config.json, got none among its files")
    if not any(file.endswith((".safetensors", INDEX)) for file in os.listdir(folder)):
        raise RequestError(f"{name!r} must have its weights as safetensors, got none: pickled weights are not read")
    return folder


def request(argv: list[str] | None) -> None:
    parser = Parser(prog="lmhead-fetch", description="Fetch a model of the Hugging Face hub, and print its folder.")
    parser.add_argument("name", metavar="NAME[@REVISION]", help="such as openai-community/gpt2, or a .gguf file")
    given = parser.parse_args(argv).name
    if is_gguf(given):
        print(convert(given))
        return
    name, _, revision = given.partition("@")
    print(fetch(name, revision or None))


def main(argv: list[str] | None = None) -> int:
    return carry_out("fetch", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
