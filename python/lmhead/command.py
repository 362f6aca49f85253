"""What every verb of Python has in common: a request that cannot be met is one line and exit code 2."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from lmhead.formats import one_line


class RequestError(Exception):
    """A request that cannot be met, as one line that says what must hold and what was there instead."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every verb does."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; {' '.join(self.format_usage().split())}")


def load(module: str, extra: str) -> Any:
    """A module that only an extra of this package brings; RequestError that names the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(f"{error.name or module} must be installed (pip install 'lmhead[{extra}]'), got: {error}") from None


def carry_out(verb: str, request: Callable[[], str | None]) -> int:
    """The exit code of `request`, after printing the line that it returns, or why it could not be met."""
    try:
        done = request()
    except RequestError as error:
        print(f"[{verb}] {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"[{verb}] {one_line(os.fsdecode(error.filename))} must be accessible, got: {error.strerror}", file=sys.stderr)
        return 2
    if done:
        print(f"[{verb}] {one_line(done)}")
    return 0
