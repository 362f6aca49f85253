"""Writes a report again and again while its runs go on."""

from __future__ import annotations

import time
from pathlib import Path

from lmhead.page.files import write_page
from lmhead.report import page, runs
from lmhead.report.runs import Study

ENDS = ("finished", "failed", "stopped", "diverged")


def follow(folder: str, out: Path, seconds: int) -> None:
    """Returns when no run goes on any more; until then `out` is at most so many seconds behind, where something has changed."""
    known = None
    while True:
        study = runs.read(folder)
        state = state_of(study)
        if is_over(study, seconds):
            return
        if state != known:
            write_page(page.render(study, folder, refresh=seconds), out)
            known = state
        time.sleep(seconds)


def files_of(study: Study) -> list[Path]:
    return [run.folder / name for run in study.runs for name in ("log.jsonl", "summary.json")]


def state_of(study: Study) -> list[tuple[str, int, int]]:
    """Changes whenever a run has more to show."""
    found = []
    for file in files_of(study):
        try:
            about = file.stat()
        except OSError:
            continue
        found.append((str(file), about.st_mtime_ns, about.st_size))
    return found


def is_over(study: Study, seconds: int) -> bool:
    """Whether every planned run has ended, and none has begun again: their files rest."""
    ended = all(run.summary.get("state") in ENDS for run in study.runs)
    newest = max((changed for _, changed, _ in state_of(study)), default=0)
    return bool(study.runs) and ended and not study.missing_runs and time.time_ns() - newest > seconds * 10**9
