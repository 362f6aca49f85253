"""Fetches a model of the Hugging Face hub for `lmhead measure` and prints the folder that holds its files.

    lmhead-fetch [--] NAME[@REVISION]

The cache, HF_ENDPOINT, HF_HUB_OFFLINE and tokens are those of huggingface_hub. Configuration, tokenizer and safetensors
alone are fetched: pickled weights never are.
"""

from __future__ import annotations

import contextlib
import os
import sys

from lmhead.command import Parser, RequestError, carry_out

FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
         "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]


def fetch(name: str, revision: str | None = None) -> str:
    """The folder of the model's files in the cache. Throws RequestError, in one line, where they cannot be had."""
    import huggingface_hub

    try:
        # What the hub's library prints of its progress must not stand in our output.
        with contextlib.redirect_stdout(sys.stderr):
            folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=FILES)
    except Exception as error:  # of many kinds: names, network, rights, disk
        where = os.environ.get("HF_ENDPOINT", "the hub")
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"{name!r} must be a folder here or a model at {where}, got {type(error).__name__}: "
                         f"{reason}") from None
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise RequestError(f"{name!r} must have a config.json, got none among its files")
    if not any(file.endswith(".safetensors") for file in os.listdir(folder)):
        raise RequestError(f"{name!r} must have its weights as safetensors, got none: pickled weights are not read")
    return folder


def request(argv: list[str] | None) -> None:
    parser = Parser(prog="lmhead-fetch", description="Fetch a model of the Hugging Face hub, and print its folder.")
    parser.add_argument("name", metavar="NAME[@REVISION]", help="such as openai-community/gpt2")
    name, _, revision = parser.parse_args(argv).name.partition("@")
    print(fetch(name, revision or None))


def main(argv: list[str] | None = None) -> int:
    return carry_out("fetch", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
