"""Writes the report of a run or study: one HTML file that opens offline.

    lmhead report RUN-OR-STUDY [--out FILE] [--picture FILE.png] [--live [SECONDS]]

Words and a table first, then loss against tokens and wall-clock, what part of the logit gradient reaches the
backbone beside its random-subspace null, the head's spectrum, the complete configuration, and how to
reproduce it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lmhead.command import Parser, RequestError, carry_out
from lmhead.page import picture
from lmhead.page.files import write_page
from lmhead.report import live, page, runs


def request(argv: list[str] | None) -> str:
    parser = Parser(prog="lmhead report", description="Write the report of a run or study as one HTML file.")
    parser.add_argument("folder", metavar="RUN-OR-STUDY", help="the folder that lmhead train or lmhead study wrote")
    parser.add_argument("--out", metavar="FILE", help="where to write (default: report.html in that folder)")
    parser.add_argument(
        "--picture",
        metavar="FILE.png",
        help="also take a picture of the top of the page, with a Chromium that is installed",
    )
    parser.add_argument(
        "--live", metavar="SECONDS", nargs="?", type=int, const=5, help="write the page again while runs go on, and let it load itself (default: 5)"
    )
    arguments = parser.parse_args(argv)
    out = Path(arguments.out) if arguments.out else Path(arguments.folder) / "report.html"
    if arguments.live is not None:
        if arguments.live < 1:
            raise RequestError(f"--live must be at least one second, got {arguments.live}")
        live.follow(arguments.folder, out, arguments.live)
    write_page(page.render(runs.read(arguments.folder), arguments.folder), out)
    done = f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)"
    if arguments.picture:
        picture.take(out, Path(arguments.picture))
        done += f" and {arguments.picture}"
    return done


def main(argv: list[str] | None = None) -> int:
    return carry_out("report", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
