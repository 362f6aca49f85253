"""Writes the figures of `lmhead measure --json` as one HTML page that opens offline.

    lmhead-measurement-report MEASUREMENT.json --out FILE.html
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lmhead.command import Parser, RequestError, carry_out
from lmhead.json_trees import parse
from lmhead.measurement.page import render
from lmhead.page.files import write_page


def read(path: str) -> dict[str, Any]:
    try:
        measurement = parse(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} must be a file of lmhead measure --json, got: {error}") from None
    models = measurement.get("models") if isinstance(measurement, dict) else None
    if not (measurement.get("format") == "lmhead-measurement" if isinstance(measurement, dict) else False) or not (
            isinstance(models, list) and models
            and all(isinstance(model, dict) and isinstance(model.get("model"), str) for model in models)):
        raise RequestError(f"{path} must be a file of lmhead measure --json, got something else")
    return {"text": [], "tokens_file": None, **measurement}


def request(argv: list[str] | None) -> None:
    parser = Parser(prog="lmhead-measurement-report", description="Write the figures of lmhead measure --json as a page.")
    parser.add_argument("measurement", metavar="MEASUREMENT.json", help="what lmhead measure --json wrote")
    parser.add_argument("--out", required=True, metavar="FILE.html", help="where to write")
    arguments = parser.parse_args(argv)
    write_page(render(read(arguments.measurement)), Path(arguments.out))


def main(argv: list[str] | None = None) -> int:
    return carry_out("measurement-report", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
