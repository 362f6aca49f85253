"""Converts the logs of a run or study for TensorBoard, with PyTorch's writer.

    lmhead tensorboard RUN-OR-STUDY [--out DIR]

Every figure of log.jsonl becomes a scalar under its dotted name, at its step, at the time it was measured.
Converting again replaces what was converted before.
"""

from __future__ import annotations

import datetime
import math
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from lmhead.command import Parser, RequestError, carry_out, load
from lmhead.formats import count, visible
from lmhead.process import interruptions_deferred
from lmhead.report import runs
from lmhead.report.runs import Run, Study


def start_time(run: Run) -> float:
    """When the run started, in epoch seconds: by its summary, or its log's last change less its length."""
    started = run.summary.get("started")
    if isinstance(started, str):
        try:
            return datetime.datetime.fromisoformat(started).timestamp()
        except (ValueError, OverflowError, OSError):
            pass
    log = run.folder / "log.jsonl"
    spent = max(
        (value for value in run.log.get("wall_seconds", {}).values() if math.isfinite(value)), default=0.0
    )
    return log.stat().st_mtime - spent if log.is_file() else 0.0


def convert_run(run: Run, out: Path) -> int:
    """Writes the event file of one run into `out` and returns how many scalars it holds.

    PyTorch's writer knows no folder names but UTF-8, so it writes elsewhere and the file is moved.
    """
    writer = load("torch.utils.tensorboard", "tensorboard").SummaryWriter
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lmhead-tensorboard-") as plain:
        with writer(log_dir=plain) as events:
            written = add_scalars(run, events)
        for file in Path(plain).iterdir():
            shutil.move(file, out / file.name)
    return written


def add_scalars(run: Run, events: Any) -> int:
    start = start_time(run)
    wall, measure = run.log.get("wall_seconds", {}), run.log.get("measure_seconds", {})
    written = 0
    for name, values in run.log.items():
        for step, value in values.items():
            spent = wall.get(step, 0.0) + measure.get(step, 0.0)
            events.add_scalar(visible(name), value, step, walltime=start + (spent if math.isfinite(spent) else 0.0))
            written += 1
    return written


def require_replaceable(out: Path) -> None:
    """Refuses a folder that holds anything but event files, since converting replaces the folder."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise RequestError(f"--out must be a new folder or one of event files, got {str(out)!r}")
    for path in out.rglob("*"):
        if path.is_symlink() or not path.is_dir() and not path.name.startswith("events.out.tfevents."):
            raise RequestError(
                f"--out must hold nothing but event files, since it is replaced, got {str(path)!r}"
            )


def convert(study: Study, out: Path) -> int:
    """Converts every run into `out`, a folder a run in a study; replaces `out` when all is written."""
    require_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with interruptions_deferred():
        made = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    with made as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        written = 0
        for run in study.runs:
            relative = run.folder.relative_to(study.folder / "runs") if study.is_study else Path()
            written += convert_run(run, fresh / relative)
        if out.exists():
            out.rename(Path(scratch) / "old")
        fresh.rename(out)
    return written


def request(argv: list[str] | None) -> str:
    parser = Parser(prog="lmhead tensorboard", description="Convert the logs of a run or study for TensorBoard.")
    parser.add_argument("folder", metavar="RUN-OR-STUDY", help="the folder that lmhead train or lmhead study wrote")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: tensorboard in that folder)")
    arguments = parser.parse_args(argv)
    study = runs.read(arguments.folder)
    out = Path(arguments.out) if arguments.out else Path(arguments.folder) / "tensorboard"
    try:
        written = convert(study, out)
    except OSError as error:
        raise RequestError(f"event files must be writable at {str(out)!r}: {error.strerror}") from None
    return f"wrote {count(written, 'scalar')} of {count(len(study.runs), 'run')} to {out}"


def main(argv: list[str] | None = None) -> int:
    return carry_out("tensorboard", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
