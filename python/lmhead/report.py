"""Writes the report of a run or study: one HTML file that opens offline.

    lmhead report RUN-OR-STUDY [--out FILE] [--picture FILE.png]

Words and a table first, then loss against tokens and wall-clock, what part of the logit gradient reaches the
backbone beside its random-subspace null, the head's spectrum, the complete configuration, and how to
reproduce it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from lmhead import report_page, report_picture, report_runs
from lmhead.report_runs import ReportError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every verb does."""

    def error(self, message: str) -> NoReturn:
        raise ReportError(f"{message}; {' '.join(self.format_usage().split())}")


def write(study: report_runs.Study, command_path: str, out: Path) -> None:
    """Writes the page of `study` to `out`."""
    write_page(report_page.render(study, command_path), out)


def write_page(html: str, out: Path) -> None:
    """Writes a page in one step: a reader sees the old file or the new one, whole."""
    page = html.encode("utf-8", "backslashreplace")
    if out.is_dir():
        raise ReportError(f"--out must name a file, got the folder {str(out)!r}")
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, out)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ReportError(f"the report must be writable at {str(out)!r}: {error.strerror}") from None


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="lmhead report", description="Write the report of a run or study as one HTML file.")
    parser.add_argument(
        "folder", metavar="RUN-OR-STUDY", help="the folder that lmhead train or lmhead study wrote"
    )
    parser.add_argument("--out", metavar="FILE", help="where to write (default: report.html in that folder)")
    parser.add_argument(
        "--picture",
        metavar="FILE.png",
        help="also take a picture of the top of the page, with a Chromium that is installed",
    )
    try:
        arguments = parser.parse_args(argv)
        study = report_runs.read(arguments.folder)
        out = Path(arguments.out) if arguments.out else Path(arguments.folder) / "report.html"
        write(study, arguments.folder, out)
        print(f"[report] wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
        if arguments.picture:
            report_picture.take(out, Path(arguments.picture))
            print(f"[report] wrote {arguments.picture}")
    except ReportError as error:
        print(f"[report] {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
