"""Encodes and decodes for `lmhead sample`, which starts this as lmhead-tokenizer and asks line by line in JSON.

    {"encode": "text"}  ->  {"ids": [5, 6]}
    {"begin": [5, 6]}   ->  {}                 what follows is decoded as standing behind these ids
    {"decode": 7}       ->  {"text": " more"}  empty while the bytes of a character are not all there
    {"decode": null}    ->  {"text": "\ufffd"} whatever is left
    anything that fails ->  {"error": "why"}
"""

from __future__ import annotations

import argparse
import json
import sys

from lmhead.prepare.encoders import tokenizer_file


class StreamDecoder:
    """Text of ids that come one by one: the same text as that of all of them decoded together."""

    def __init__(self, tokenizer, ids: list[int]):
        self._tokenizer = tokenizer
        self._ids = list(ids)
        # What the next ids mean may depend on those just before (a leading space, half a character), not on all.
        self._context, self._read = max(0, len(ids) - 8), len(ids)

    def _text(self, start: int, end: int | None = None) -> str:
        return self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)

    def add(self, token: int | None) -> str:
        if token is not None:
            self._ids.append(token)
        known, text = self._text(self._context, self._read), self._text(self._context)
        if len(text) <= len(known) or (token is not None and text.endswith("\ufffd")):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return text[len(known):]


def answer(request: dict, tokenizer, special: bool, state: dict) -> dict:
    if "encode" in request:
        return {"ids": tokenizer.encode(request["encode"], add_special_tokens=special).ids}
    if "begin" in request:
        state["decoder"] = StreamDecoder(tokenizer, request["begin"])
        return {}
    return {"text": state["decoder"].add(request["decode"])}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lmhead-tokenizer", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="a tokenizer.json")
    parser.add_argument("--special", action="store_true", help="add the special tokens that its template has")
    arguments = parser.parse_args(argv)
    tokenizer = None
    state: dict[str, StreamDecoder] = {}
    for line in sys.stdin:
        try:
            if tokenizer is None:
                import tokenizers
                tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_file(arguments.tokenizer))
                tokenizer.no_truncation()
                tokenizer.no_padding()
            reply = answer(json.loads(line), tokenizer, arguments.special, state)
        except Exception as error:  # tokenizers raises Exception itself
            reply = {"error": f"{arguments.tokenizer}: {error or type(error).__name__}"}
        print(json.dumps(reply), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
