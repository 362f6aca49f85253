"""Runs a Python verb: python -m lmhead prepare | report | study-document | tensorboard | evaluate; native verbs call the others."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from lmhead import process

VERBS = {
    "prepare": "make a dataset of token ids from text",
    "report": "write the report of a run or study as one HTML file",
    "study-document": "write what came of a study as Markdown with plots",
    "leaderboard": "compare heads, rules and optimisers under one protocol",
    "tensorboard": "convert the logs of a run or study for TensorBoard",
    "evaluate": "score models on the tasks of lm-evaluation-harness",
    "fetch": "fetch a model of the hub, and print its folder",
    "tokenize": "turn text into token ids for lmhead measure",
    "measurement-report": "write the figures of lmhead measure as one HTML file",
    "tokenizer": "encode and decode text for lmhead sample",
}
MODULES = {  # where the name is not the verb's
    "evaluate": "evaluate.command",
    "fetch": "hub",
    "leaderboard": "leaderboard.command",
    "measurement-report": "measurement.command",
    "prepare": "prepare.command",
    "report": "report.command",
    "study-document": "study.command",
    "tokenize": "prepare.tokenize",
    "tokenizer": "prepare.tokenizer",
}


def load(argv: list[str]) -> Callable[[], int]:
    """What carries out a request, once the modules that it needs have been imported."""
    if argv and argv[0] in VERBS:
        verb = importlib.import_module(f"lmhead.{MODULES.get(argv[0], argv[0])}").main
        return lambda: verb(argv[1:])
    return lambda: answer(argv)


def answer(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print("usage: python -m lmhead VERB ...\n")
        for verb, meaning in VERBS.items():
            print(f"  {verb:<19} {meaning}")
        print("\nEach verb has its own --help; the other verbs are those of the native command lmhead.")
        return 0
    got = repr(argv[0]) if argv else "none"
    print(f"[lmhead] the verb must be one of {', '.join(VERBS)}, got {got}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    """Carries out a request as a process of its own, whose signals and standard streams it takes over."""
    argv = sys.argv[1:] if argv is None else argv
    return process.run(argv[0] if argv and argv[0] in VERBS else "lmhead", lambda: load(argv))


def program() -> int:
    """The same for a program whose name is lmhead-VERB."""
    return main([os.path.basename(sys.argv[0]).removeprefix("lmhead-"), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
