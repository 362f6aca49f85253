"""Runs a Python verb: python -m lmhead prepare | report | study-document | tensorboard | evaluate; native verbs call the others.

One native verb is here too: torchrun -m lmhead train, in several processes.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from lmhead import process
from lmhead.verbs import END_WITH_INPUT, VERBS

# Native verbs that a process of Python can carry out, and as what.
NATIVE = {"train": ("training", "train a model, under torchrun in several processes")}
MODULES = {**VERBS, **NATIVE}


def load(argv: list[str]) -> Callable[[], int]:
    """What carries out a request, once the modules that it needs have been imported."""
    if argv and argv[0] in MODULES:
        try:
            verb = importlib.import_module(f"lmhead.{MODULES[argv[0]][0]}").main
        except ModuleNotFoundError as error:  # of a package that was installed without what it depends on
            if (error.name or "lmhead").startswith("lmhead"):
                raise
            lacking = error.name
            return lambda: missing(argv[0], lacking)
        return lambda: verb(argv[1:])
    return lambda: answer(argv)


def missing(verb: str, module: str | None) -> int:
    print(f"[{verb}] {module} must be installed (pip install lmhead brings it, without --no-deps), got none", file=sys.stderr)
    return 2


def answer(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print("usage: python -m lmhead VERB ...\n")
        for verb, (_, meaning) in MODULES.items():
            print(f"  {verb:<19} {meaning}")
        print("\nEach verb has its own --help; the other verbs are those of the native command lmhead.")
        return 0
    got = repr(argv[0]) if argv else "none"
    print(f"[lmhead] the verb must be one of {', '.join(MODULES)}, got {got}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    """Carries out a request as a process of its own, whose signals and standard streams it takes over."""
    argv = sys.argv[1:] if argv is None else argv
    verb = argv[0] if argv and argv[0] in MODULES else "lmhead"
    return process.run(verb, lambda: load(argv), ends_with_input=verb in END_WITH_INPUT)


def program() -> int:
    """The same for a program whose name is lmhead-VERB."""
    return main([os.path.basename(sys.argv[0]).removeprefix("lmhead-"), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
