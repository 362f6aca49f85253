"""JSON that others wrote: read as far as it goes, never trusted to have a shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAXIMUM_DEPTH = 64  # of nested JSON; beyond it a file is refused rather than recursed into


def number(value: Any) -> float | None:
    """`value` as a float, None where it is no number; an integer too large for one is infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def lookup(tree: Any, path: str) -> Any:
    """The value at a dotted path, None where any part of it is missing."""
    for key in path.split("."):
        if not isinstance(tree, dict):
            return None
        tree = tree.get(key)
    return tree


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for every leaf; an empty object is a leaf."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def parse(text: str | bytes) -> Any:
    """JSON from `text`; ValueError where it is none, or nested beyond `MAXIMUM_DEPTH`."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {MAXIMUM_DEPTH} deep") from None
    level = [value]
    for _ in range(MAXIMUM_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return value
    raise ValueError(f"nested more than {MAXIMUM_DEPTH} deep")


def read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    """The JSON object in `path`; empty, with a note where the file is there, if it cannot be read as one."""
    try:
        if not path.is_file():
            return {}
        value = parse(path.read_bytes())
    except (OSError, ValueError):
        value = None
    if isinstance(value, dict):
        return value
    notes.append(f"{path.name} is no readable JSON object and is ignored")
    return {}


def read_lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Yields every line of a JSON-lines file that is an object and notes the lines that are not."""
    if not path.is_file():
        return
    unreadable, truncated = 0, False
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    value = parse(line)
                except ValueError:
                    value = None
                if isinstance(value, dict):
                    yield value
                elif line.endswith(b"\n"):
                    unreadable += 1
                else:
                    truncated = True
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
    if unreadable:
        notes.append(f"{path.name}: {unreadable:,} unreadable {'line' if unreadable == 1 else 'lines'} skipped")
    if truncated:
        notes.append(f"{path.name}: the last line is cut short and skipped")
