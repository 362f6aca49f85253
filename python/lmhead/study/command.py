"""Writes what came of a study as a Markdown document with plots.

    lmhead study-document STUDY.json [key.path=value ...] [--rows PATH] [--out FILE.md]
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from lmhead.command import Parser, RequestError, carry_out
from lmhead.study import document, figures, statistics


def write(found: dict[str, Any], out: Path, commands: list[str]) -> None:
    """Writes the document and, beside it, its plots."""
    out.parent.mkdir(parents=True, exist_ok=True)
    plots = []
    for suffix, alternative, draw in (
        ("differences", "differences with 95 % intervals", figures.differences),
        ("curves", "validation curves, mean over seeds", figures.curves),
        ("against", "the outcome against what it may depend on, mean over seeds with 95 % intervals", figures.against),
        ("fits", "differences over the places with 95 % intervals, and the fitted lines", figures.fits),
        ("observed", "what was observed over training, mean over seeds with 95 % intervals", figures.observed),
        ("logit-steps", "loss after logit steps of equal length, mean over seeds with 95 % intervals", figures.logit_steps),
    ):
        file = out.with_name(f"{out.stem}-{suffix}.svg")
        if draw(found, file):
            plots.append((alternative, file.name))
    out.write_text(document.render(found, out.stem, commands, plots), encoding="utf-8")


def request(argv: list[str] | None) -> str:
    parser = Parser(prog="lmhead study-document", description="Write what came of a study as Markdown with plots.")
    parser.add_argument("study", metavar="STUDY.json")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="as lmhead study had them")
    parser.add_argument(
        "--rows", metavar="PATH", help="the rows of finished runs, a file or a folder of them (default: studies/rows)"
    )
    parser.add_argument("--out", metavar="FILE.md", help="where to write (default: docs/results/NAME.md)")
    arguments = parser.parse_args(argv)
    study = Path(arguments.study)
    rows = Path(arguments.rows or "studies/rows")
    out = Path(arguments.out) if arguments.out else Path("docs/results") / f"{study.stem}.md"
    if not rows.exists():
        raise RequestError(f"the rows must be a file or a folder, got {str(rows)!r}, which is neither")
    words = shlex.join([str(study), *arguments.overrides, "--rows", str(rows)])
    commands = [f"lmhead study {words} && \\", f"  lmhead study-document {words} --out {shlex.quote(str(out))}"]
    write(statistics.compute(study, rows, arguments.overrides), out, commands)
    return f"wrote {out}"


def main(argv: list[str] | None = None) -> int:
    return carry_out("study-document", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
