"""Gives the log of a run or study to TensorBoard, Weights & Biases or trackio.

    lmhead log RUN-OR-STUDY --to tensorboard|wandb|trackio [--project NAME] [--out DIR]

Every figure of log.jsonl goes there under its dotted name, at its step, with the run's configuration where the program takes one.
Nothing leaves the machine unless the program's own environment says so (WANDB_MODE=online).
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lmhead import tensorboard
from lmhead.command import Parser, RequestError, carry_out, load
from lmhead.formats import count, one_line, visible
from lmhead.report import runs
from lmhead.report.runs import Run, Study


def lines_of(run: Run) -> Iterator[tuple[int, dict[str, float]]]:
    """Steps in order, each with its finite figures."""
    by_step: dict[int, dict[str, float]] = {}
    for name, values in run.log.items():
        for step, value in values.items():
            if math.isfinite(value):
                by_step.setdefault(step, {})[visible(name)] = value
    return iter(sorted(by_step.items()))


def name_of(run: Run) -> str:
    seed = "" if run.seed is None else f" seed {run.seed}"
    return visible(run.name if run.name == run.arm else f"{run.arm}{seed}")


def to_wandb(study: Study, project: str, out: Path) -> str:
    wandb = load("wandb", "wandb")
    mode = os.environ.get("WANDB_MODE", "offline")
    out.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off")
    for run in study.runs:
        with wandb.init(
            project=project, name=name_of(run), group=visible(study.name), config=run.configuration, dir=str(out), mode=mode,
            reinit="finish_previous", settings=settings,
        ) as started:  # fmt: skip
            for step, figures in lines_of(run):
                started.log(figures, step=step)
            started.summary.update({f"summary.{key}": value for key, value in run.summary.items() if isinstance(value, (int, float, str))})
    return f"{out}; `wandb sync {out}/wandb/offline-run-*` sends it" if mode == "offline" else f"{project} at Weights & Biases"


def to_trackio(study: Study, project: str, out: Path) -> str:
    os.environ["TRACKIO_DIR"] = str(out)  # read when it is imported
    with contextlib.redirect_stdout(io.StringIO()):  # it tells how to look at every single run
        trackio = load("trackio", "trackio")
        for run in study.runs:
            trackio.init(
                project=project, name=name_of(run), group=visible(study.name), config=run.configuration, embed=False,
                auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
            for step, figures in lines_of(run):
                trackio.log(figures, step=step)
            trackio.finish()
    return f"{out}; `TRACKIO_DIR={out} trackio show --project {project}` shows it"


def to_tensorboard(study: Study, project: str, out: Path) -> str:
    tensorboard.convert(study, out)
    return f"{out}; `tensorboard --logdir {out}` shows it"


PROGRAMS: dict[str, Callable[[Study, str, Path], str]] = {"tensorboard": to_tensorboard, "wandb": to_wandb, "trackio": to_trackio}


def request(argv: list[str] | None) -> str:
    parser = Parser(prog="lmhead log", description="Give the log of a run or study to TensorBoard, Weights & Biases or trackio.")
    parser.add_argument("folder", metavar="RUN-OR-STUDY", help="the folder that lmhead train or lmhead study wrote")
    parser.add_argument("--to", required=True, choices=PROGRAMS, help="the program that shall have it")
    parser.add_argument("--project", help="its name there, for wandb and trackio (default: the study's or run's)")
    parser.add_argument("--out", metavar="DIR", help="where files go (default: a folder of the program's name in RUN-OR-STUDY)")
    arguments = parser.parse_args(argv)
    study = runs.read(arguments.folder)
    inside = "." if arguments.to == "wandb" else arguments.to  # which makes the folder `wandb` itself
    out = Path(arguments.out or Path(arguments.folder) / inside).absolute()
    project = arguments.project or "".join(c if c.isalnum() or c in "-_." else "-" for c in study.name) or "lmhead"
    try:
        where = PROGRAMS[arguments.to](study, project, out)
    except OSError as error:
        raise RequestError(f"files must be writable at {str(out)!r}: {error.strerror or one_line(error)}") from None
    return f"gave {count(len(study.runs), 'run')} to {where}"


def main(argv: list[str] | None = None) -> int:
    return carry_out("log", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
