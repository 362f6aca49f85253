"""Tables as data: what stands in a cell, apart from how a page or a document writes it down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Code:
    """Words that are set as code: a key, a value, a hash."""

    text: str


Words = str | Code | tuple[str | Code, ...]


@dataclass(frozen=True)
class Cell:
    words: Words
    small: str = ""  # beside the words, or below them in a heading
    arm: int | None = None  # whose swatch stands before the words

    @property
    def parts(self) -> tuple[str | Code, ...]:
        return self.words if isinstance(self.words, tuple) else (self.words,)


def listed(keys: Iterable[str]) -> tuple[str | Code, ...]:
    """Keys as code, with commas between."""
    return tuple(part for key in keys for part in (", ", Code(key)))[1:]


def as_cell(entry: Cell | Words) -> Cell:
    return entry if isinstance(entry, Cell) else Cell(entry)


@dataclass
class Table:
    """A heading and rows, each a list of cells; the first `text_columns` hold words, the rest figures."""

    label: str
    head: list[Cell]
    rows: list[list[Cell]]
    caption: str = ""
    text_columns: int = 1
    strong_rows: set[int] = field(default_factory=set)


def make_table(
    label: str,
    head: Sequence[Cell | Words],
    rows: Sequence[Sequence[Cell | Words]],
    caption: str = "",
    text_columns: int = 1,
) -> Table:
    return Table(
        label, [as_cell(entry) for entry in head], [[as_cell(entry) for entry in row] for row in rows], caption, text_columns
    )
