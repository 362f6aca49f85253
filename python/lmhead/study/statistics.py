"""What the rows of a study allow to say, as the native command computes it: statistics.json."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lmhead.command import RequestError
from lmhead.json_trees import parse
from lmhead.study.fit import with_fits


def native_command() -> str:
    """The command lmhead: beside this package in a built tree, else as installed."""
    root = Path(__file__).resolve().parents[3]
    places = [root / "build" / "release" / "bin" / "lmhead", Path(sys.executable).parent / "lmhead"]
    for place in places:
        if place.is_file():
            return str(place)
    found = shutil.which("lmhead")
    if found is None:
        raise RequestError("the command lmhead must be installed or built, got neither")
    return found


def compute(study: Path, rows: Path, overrides: list[str]) -> dict[str, Any]:
    """What the rows say of the study, from the native command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [native_command(), "study", str(study), *overrides, "--rows", str(rows), "--out", folder]
        done = subprocess.run([*command, "--statistics-only"], capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["nothing"]
            raise RequestError(f"the statistics must be computable, got: {lines[-1]}")
        return with_fits(read(Path(folder) / "statistics.json"))


def read(path: Path) -> dict[str, Any]:
    try:
        statistics = parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} must be a readable statistics.json, got: {error}") from None
    if not isinstance(statistics, dict) or statistics.get("format") != "lmhead-study-statistics":
        raise RequestError(f"{path} must have the format lmhead-study-statistics")
    return statistics
