#!/usr/bin/env python3
"""Writes the tables of docs/heads.md: what every head says of itself, as `lmhead heads` prints it, and the newest rows of bench/heads.py.

    scripts/heads_table.py            writes them
    scripts/heads_table.py --check    says what is missing, exit 1: a stale table, a head without a paragraph, a paragraph without a head
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/heads.md"
BEGIN, END = "<!-- by scripts/heads_table.py -->\n", "<!-- end -->\n"
BEGIN_TIMES, END_TIMES = "<!-- times by scripts/heads_table.py -->\n", "<!-- end of times -->\n"
FEWEST_WORDS = 30  # of a paragraph: what the head is for, what it costs, what is known
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "bench")]


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table(descriptions: list[dict]) -> str:
    lines = ["| head | formula | cost of training against `linear` | memory of a step beside the input | options | source |", "|---|---|---|---|---|---|"]
    for head in descriptions:
        options = ", ".join(f"`{key['key'].removeprefix('head.')}`" for key in head["keys"])
        told = [f"[`{head['type']}`](#{head['type']})", *(cell(head[about]) for about in ("formula", "cost", "memory")), options, cell(head["source"])]
        lines.append("| " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def with_table(page: str, descriptions: list[dict]) -> str:
    before, rest = page.split(BEGIN)
    return with_times(before + BEGIN + table(descriptions) + END + rest.split(END)[1])


def with_times(page: str) -> str:
    import head_table

    before, rest = page.split(BEGIN_TIMES)
    return before + BEGIN_TIMES + head_table.summary(ROOT / "bench/results/heads.jsonl") + "\n" + END_TIMES + rest.split(END_TIMES)[1]


def paragraphs(page: str) -> dict[str, str]:
    """The text under each heading that is a head's name."""
    parts = re.split(r"^### (\w+)\n", page, flags=re.MULTILINE)
    return {name: re.split(r"^#", text, flags=re.MULTILINE)[0].strip() for name, text in zip(parts[1::2], parts[2::2])}


def faults(page: str, descriptions: list[dict]) -> list[str]:
    """What is wrong with the page, a line each."""
    names, written = [head["type"] for head in descriptions], paragraphs(page)
    found = [f"docs/heads.md must have a paragraph `### {name}`, got none" for name in names if name not in written]
    found += [f"docs/heads.md must describe heads of the list, got {name}" for name in written if name not in names]
    found += [f"the paragraph on {name} must say what it is for, what it costs and what is known, got {len(text.split())} words"
              for name, text in written.items() if len(text.split()) < FEWEST_WORDS]
    if with_table(page, descriptions) != page:
        found.append("the tables of docs/heads.md must be the list of heads and the rows of the benchmark, got others; scripts/heads_table.py writes it")
    return found


def main() -> int:
    from lmhead import heads

    descriptions, page = [heads.describe(name) for name in heads.names()], PAGE.read_text(encoding="utf-8")
    if "--check" not in sys.argv[1:]:
        page = with_table(page, descriptions)
        PAGE.write_text(page, encoding="utf-8")
    wrong = faults(page, descriptions)
    print("\n".join(wrong) or f"docs/heads.md has {len(descriptions)} heads")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
