#!/usr/bin/env python3
"""Writes docs/results/README.md: every study, how far it is, what came of it. Run from the repository's environment after study-document."""

import collections
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))

from lmhead.study import statistics as study_statistics  # noqa: E402

HEAD = """# Results

What was run of the files in [studies/](../../studies), and how far. Each document ends with the command that makes it from the rows in
`studies/rows/`, and that goes on where the rows stop; `make study STUDY=name` does both, `lmhead study STUDY.json --dry-run` says what is left and
what it costs. Runs that two studies share were run once: a row counts for every study that asks for its configuration. Read together in [dispute.md](../dispute.md).
Released models, measured on one text: [real_models.md](real_models.md). What whitening changes in an optimiser's update: [update_overlap.md](update_overlap.md).

| study | state | what came of it |
|---|---|---|
"""
LONGEST = 420  # characters of a cell; beyond, findings are counted


def state_of(statistics: dict) -> str:
    runs = statistics["runs"]
    whole = all(arm["search_finished"] and arm["missing"] == 0 for arm in statistics["arms"])
    seeds = f"{len(statistics['seeds'])} seeds"
    return f"complete, {seeds}" if whole else f"unfinished, {runs['finished']} of at least {runs['known']} runs, {seeds}"


def words_of(statistics: dict) -> str:
    verdicts = [(one["arm"], one["verdict"]) for one in statistics["comparisons"] if one["seeds"]]
    if not verdicts:
        return "no pair is finished yet" if statistics["comparisons"] else "no comparison; figures over training"
    words = "; ".join(f"{arm}: {verdict.split(';')[0]}" for arm, verdict in verdicts)
    if len(words) <= LONGEST:
        return words
    counts = collections.Counter(verdict.split(":")[0].split(" larger")[0].split(" shown,")[0] for _, verdict in verdicts)
    return f"{len(verdicts)} comparisons: " + ", ".join(f"{count} {what}" for what, count in counts.most_common())


def document_of(study: Path) -> Path:
    return ROOT / "docs/results" / f"{study.stem}.md"


def line_of(study: Path, statistics: dict | None) -> str:
    """The study's row of the table; `statistics` is None where it has no document. Then only its own rows count: which
    of others it shares is known only where its data is."""
    if statistics is None:
        rows = ROOT / "studies/rows" / f"{study.stem}.jsonl"
        runs = len(rows.read_text(encoding="utf-8").splitlines()) if rows.is_file() else 0
        return f"| [{study.stem}](../../studies/{study.name}) | {f'begun, {runs} runs' if runs else 'not run'} | |"
    return f"| [{study.stem}]({study.stem}.md) | {state_of(statistics)} | {words_of(statistics)} |"


def listed_studies() -> list[Path]:
    return sorted(study for study in (ROOT / "studies").glob("*.json") if study.stem != "demo")


def main() -> None:
    lines = []
    for study in listed_studies():
        documented = document_of(study).is_file()
        lines.append(line_of(study, study_statistics.compute(study, ROOT / "studies/rows", []) if documented else None))
    (ROOT / "docs/results/README.md").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
