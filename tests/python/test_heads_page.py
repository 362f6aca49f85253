"""docs/heads.md has every head of the list: its line in the table, and a paragraph."""

import importlib.util

import pytest
from conftest import ROOT

pytest.importorskip("torch")
try:
    from lmhead import heads
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)

specification = importlib.util.spec_from_file_location("heads_table", ROOT / "scripts/heads_table.py")
heads_table = importlib.util.module_from_spec(specification)
specification.loader.exec_module(heads_table)

DESCRIPTIONS = [heads.describe(name) for name in heads.names()]


def test_the_page_is_the_list():
    assert heads_table.faults(heads_table.PAGE.read_text(encoding="utf-8"), DESCRIPTIONS) == []


def test_a_head_without_a_paragraph_is_a_fault():
    page = heads_table.PAGE.read_text(encoding="utf-8")
    another = DESCRIPTIONS[1] | {"type": "newcomer"}
    assert heads_table.faults(page, [*DESCRIPTIONS, another]) == [
        "docs/heads.md must have a paragraph `### newcomer`, got none",
        "the tables of docs/heads.md must be the list of heads and the rows of the benchmark, got others; scripts/heads_table.py writes it",
    ]
    short = heads_table.with_table(page, [*DESCRIPTIONS, another]) + "\n### newcomer\nIt is new.\n"
    assert heads_table.faults(short, [*DESCRIPTIONS, another]) == [
        "the paragraph on newcomer must say what it is for, what it costs and what is known, got 3 words"
    ]
    assert any("must describe heads of the list, got linear" in fault for fault in heads_table.faults(page, DESCRIPTIONS[1:]))
