"""Compares heads, rules and optimisers under one protocol.

    lmhead leaderboard BOARD.json [--stage NAME] [--equal time|tokens] [--entries NAME ...]

Every stage of the board is an ordinary study, carried out by `lmhead study`: killed at any moment it goes on where it was, and an
entry costs only its own runs.
"""

from __future__ import annotations

import ctypes
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from lmhead.command import Parser, RequestError, carry_out
from lmhead.formats import one_line
from lmhead.leaderboard import costs as step_costs
from lmhead.leaderboard import page, standings, studies
from lmhead.leaderboard.board import EQUAL, Board, Entry, Stage, read
from lmhead.study import figures, statistics
from lmhead.study.statistics import native_command

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Interrupted(Exception):
    """A study was stopped, with everything saved."""


class RunsFailed(Exception):
    """What could be done is done, and runs of some studies failed; they have said why."""


class Conductor:
    """Carries the stages of a board out, or looks at how far they are."""

    def __init__(self, board: Board, rows: Path, out: Path, costs: Path):
        self.board, self.rows, self.out, self.costs_file = board, rows, out, costs
        self.failed: list[str] = []  # entries of which runs failed, and at equal what

    def costs(self, stage: Stage) -> dict[str, step_costs.Cost]:
        return step_costs.read(self.costs_file, self.board, stage)

    def write_study(self, stage: Stage, equal: str, entries: list[Entry], needs_costs: bool = True) -> Path | None:
        """The study file of those entries; at equal time of those whose cost is known."""
        known = {name: cost.ratio for name, cost in self.costs(stage).items()}
        if equal == "time":
            unknown = [entry.name for entry in entries if entry.name not in known]
            if unknown and needs_costs:
                raise RequestError(
                    f"the cost of a step must be known at equal time, got none of {', '.join(unknown)}; "
                    f"--measure-costs --stage {stage.name} measures it"
                )
            entries = [entry for entry in entries if entry.name in known]
        if len(entries) < 2:
            return None
        study = studies.study_of(self.board, stage, equal, entries, known)
        file = self.out / "studies" / f"{study['name']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(study, indent=1) + "\n", encoding="utf-8")
        return file

    def entrants(self, stage: Stage) -> standings.Chosen:
        if stage.entrants.gaining_in is None:
            return standings.chosen_for(self.board, stage, None)
        earlier = self.board.stage(stage.entrants.gaining_in)
        found = self.statistics(earlier, earlier.equal[0], self.entrants(earlier).entries)
        return standings.chosen_for(self.board, stage, found)

    def statistics(self, stage: Stage, equal: str, entries: list[Entry]) -> dict[str, Any] | None:
        """What the rows say of those entries, as far as their cost is known."""
        study = self.write_study(stage, equal, entries, needs_costs=False)
        if study is None or not self.rows.exists():
            return None
        return statistics.compute(study, self.rows, [])

    def run(self, stage: Stage, equal: str, names: list[str] | None, options: list[str]) -> None:
        """Cheapest entry first, each beside the baseline."""
        baseline = self.board.entry(self.board.baseline)
        known = self.costs(stage)
        entries = [entry for entry in self.entrants(stage).entries if names is None or entry.name in names]
        others = sorted(
            (entry for entry in entries if entry is not baseline),
            key=lambda entry: (known[entry.name].ratio if entry.name in known else float("inf")),
        )
        for entry in others:
            study = self.write_study(stage, equal, [baseline, entry])
            assert study is not None  # two entries
            command = [native_command(), "study", str(study), "--rows", str(self.rows) + "/", "--out", str(self.out / study.stem)]
            code = _wait_for([*command, *options])
            if code == 130:
                raise Interrupted
            if code == 2:
                raise RequestError(f"the study of {entry.name} must be possible: see above")
            if code:
                self.failed.append(f"{entry.name} at equal {equal} ({stage.name})")


def _end_with_parent() -> None:
    """In a child: where this process is killed, its study saves every run as well."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for(command: list[str]) -> int:
    """The exit code of a study. What interrupts this process is handed on to it once, and it saves every run; in a session
    of its own it hears nothing of the terminal's Ctrl-C, which would otherwise be a second time and end it at once."""
    with subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_parent) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise Interrupted from None


def write_page(conductor: Conductor, file: Path, command: str) -> None:
    parts = []
    file.parent.mkdir(parents=True, exist_ok=True)
    for stage in conductor.board.stages:
        chosen, costs = conductor.entrants(stage), conductor.costs(stage)
        for equal in stage.equal:
            found = conductor.statistics(stage, equal, chosen.entries)
            plot = file.with_name(f"{file.stem}-{stage.name}-equal-{equal}.svg")
            drawn = found is not None and figures.differences(_finished(found), plot)
            if not drawn:
                plot.unlink(missing_ok=True)
            parts.append(page.Part(stage, equal, found, costs, chosen.undecided, plot.name if drawn else None))
    file.write_text(page.render(conductor.board, parts, command), encoding="utf-8")


def _finished(found: dict[str, Any]) -> dict[str, Any]:
    """The comparisons of finished entries, best first."""
    whole = {arm["arm"] for arm in found["arms"] if standings.is_finished(arm)}
    shown = [one for one in found["comparisons"] if one["arm"] in whole and one.get("mean_difference") is not None]
    return found | {"comparisons": sorted(shown, key=lambda one: one["mean_difference"])}


def request(argv: list[str] | None) -> str:
    parser = Parser(prog="lmhead leaderboard", description="Compare heads, rules and optimisers under one protocol.")
    parser.add_argument("board", metavar="BOARD.json")
    parser.add_argument("--stage", metavar="NAME", help="this stage only")
    parser.add_argument("--equal", choices=EQUAL, help="this comparison only")
    parser.add_argument("--entries", nargs="+", metavar="NAME", help="these entries, and the baseline")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once, a thread each (default: 1)")
    parser.add_argument("--rows", metavar="FOLDER", default="studies/rows", help="where rows of finished runs are (default: studies/rows)")
    parser.add_argument("--out", metavar="FOLDER", help="where studies and unfinished runs go (default: runs/NAME)")
    parser.add_argument("--page", metavar="FILE.md", help="the page to write (default: docs/NAME.md)")
    parser.add_argument("--discard-runs", action="store_true", help="delete a run's folder once its row is written")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print what is left of every study, and run nothing")
    what.add_argument("--page-only", action="store_true", help="write the page from the rows there are")
    what.add_argument("--measure-costs", action="store_true", help="time a step of every entry beside the baseline's; needs a quiet machine")
    parser.add_argument("--rounds", type=int, default=5, help="of --measure-costs (default: 5)")
    arguments = parser.parse_args(argv)
    board = read(Path(arguments.board))
    stages = [stage for stage in board.stages if arguments.stage in (None, stage.name)]
    if not stages:
        raise RequestError(f"--stage must be one of {', '.join(one.name for one in board.stages)}, got {arguments.stage!r}")
    unknown = set(arguments.entries or ()) - {entry.name for entry in board.entries}
    if unknown:
        raise RequestError(f"--entries must name entries of the board, got {min(unknown)!r}")
    if arguments.jobs < 1 or arguments.rounds < 1:
        raise RequestError("--jobs and --rounds must be at least 1")
    out = Path(arguments.out or Path("runs") / board.name)
    conductor = Conductor(board, Path(arguments.rows), out, Path(board.costs))
    if arguments.measure_costs:
        return _measure(conductor, stages, arguments.entries, arguments.rounds)
    options = ["--jobs", str(arguments.jobs), *["--discard-runs"] * arguments.discard_runs, *["--dry-run"] * arguments.dry_run]
    if not arguments.page_only:
        for stage in stages:
            for equal in stage.equal:
                if arguments.equal in (None, equal):
                    print(f"[leaderboard] {stage.title}, at equal {equal}", flush=True)
                    conductor.run(stage, equal, arguments.entries, options)
        if arguments.dry_run:
            return ""
    file = Path(arguments.page or Path("docs") / f"{board.name}.md")
    rows = [] if arguments.rows == "studies/rows" else ["--rows", arguments.rows]
    write_page(conductor, file, shlex.join(["lmhead", "leaderboard", arguments.board, *rows]))
    if conductor.failed:
        raise RunsFailed(f"wrote {file}; runs failed of {', '.join(conductor.failed)}: the same command tries them again")
    return f"wrote {file}"


def _measure(conductor: Conductor, stages: list[Stage], names: list[str] | None, rounds: int) -> str:
    file = conductor.costs_file
    file.parent.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        known = conductor.costs(stage)
        entries = [entry for entry in conductor.board.entries if entry.name in names] if names else [
            entry for entry in conductor.entrants(stage).entries if entry.name not in known
        ]
        entries = [entry for entry in entries if entry.name != conductor.board.baseline]
        for entry in entries:  # one at a time: a row is kept as soon as it is known
            cost = step_costs.measure(conductor.board, stage, entry, rounds, file)
            print(f"{stage.name:12} {entry.name:32} {cost.ratio:.3f} [{cost.low:.3f}, {cost.high:.3f}]", flush=True)
    return f"costs are in {file}"


def main(argv: list[str] | None = None) -> int:
    try:
        return carry_out("leaderboard", lambda: request(argv))
    except Interrupted:  # the study has said how to go on
        return 130
    except RunsFailed as failed:
        print(f"[leaderboard] {one_line(failed)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
