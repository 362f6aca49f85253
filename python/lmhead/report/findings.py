"""What a study's statistics.json says: verdicts, intervals and what was searched, as the native command computed them."""

from __future__ import annotations

from typing import Any

from lmhead.formats import ABSENT, compact, difference, fixed, p_value
from lmhead.json_trees import number
from lmhead.report.runs import Study
from lmhead.tables import Cell, Code, Table, make_table


def entries(study: Study, name: str) -> list[dict[str, Any]]:
    """The objects of a list of statistics.json; empty where there is none."""
    found = study.statistics.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def interval_of(entry: dict[str, Any], key: str = "interval") -> list[float] | None:
    found = entry.get(key)
    ends = [number(end) for end in found] if isinstance(found, list) and len(found) == 2 else []
    return [float(end) for end in ends if end is not None] if ends and None not in ends else None


def paired_interval(study: Study, best: str, other: str, metric: str) -> tuple[float, float] | None:
    """The 95 % interval of `other` less `best`, where the study compared the two in this figure."""
    if study.statistics.get("outcome") != metric:
        return None
    for entry in entries(study, "comparisons"):
        ends = interval_of(entry)
        if ends and (entry.get("baseline"), entry.get("arm")) == (best, other):
            return ends[0], ends[1]
        if ends and (entry.get("baseline"), entry.get("arm")) == (other, best):
            return -ends[1], -ends[0]
    return None


def comparisons_table(study: Study) -> Table | None:
    """A row a comparison, with the verdict by the study's own rule; None where nothing is compared."""
    rows: list[list[Any]] = []
    for entry in entries(study, "comparisons"):
        seeds = entry.get("seeds")
        rows.append(
            [
                f"{entry.get('arm', ABSENT)} − {entry.get('baseline', ABSENT)}",
                str(entry.get("verdict", ABSENT)),
                str(len(seeds)) if isinstance(seeds, list) else ABSENT,
                difference(number(entry.get("mean_difference")), interval_of(entry)),
                difference(None, interval_of(entry, "bootstrap_interval")),
                fixed(number(entry.get("effect_size")), 2),
                p_value(number(entry.get("p_value"))),
                p_value(number(entry.get("holm_p"))),
            ]
        )
    if not rows:
        return None
    head: list[Any] = [
        "difference",
        "verdict",
        "pairs",
        Cell("mean", "95 % t interval"),
        "bootstrap",
        Cell("g", "effect size"),
        "p",
        Cell("p", "Holm"),
    ]
    return make_table("what the study found", head, rows, caption=outcome_words(study), text_columns=2)


def outcome_words(study: Study) -> str:
    unit, margin = study.statistics.get("unit"), number(study.statistics.get("margin"))
    words = f"{study.statistics.get('outcome', 'outcome')}{f' ({unit})' if unit else ''}, paired by seed, arm less baseline."
    better = "Higher" if study.statistics.get("higher_is_better") is True else "Lower"
    words += f" {better} is better."
    return words + (f" The smallest difference that would matter was set at {compact(margin)}." if margin else "")


def search_table(study: Study) -> Table | None:
    """A row an arm and key that was searched: candidates with their means, and the best; None where nothing was."""
    rows: list[list[Any]] = []
    for arm in entries(study, "arms"):
        found, edges, searches = (arm.get(name) for name in ("searched", "at_an_edge", "search"))
        found = found if isinstance(found, dict) else {}
        edges = edges if isinstance(edges, list) else []
        last: dict[str, dict[str, Any]] = {}
        for search in searches if isinstance(searches, list) else []:
            if isinstance(search, dict) and isinstance(search.get("key"), str):
                last[search["key"]] = search  # of several rounds the last
        for key, search in last.items():
            best = found.get(key, search.get("best"))
            shown = compact(best) + (" (at an edge)" if key in edges else "")
            state = "finished" if arm.get("search_finished") is True else "still searched"
            rows.append([str(arm.get("arm", ABSENT)), Code(key), shown, candidates(search), state])
    if not rows:
        return None
    head: list[Any] = ["arm", "key", "best", Cell("candidates", "mean outcome on the search seeds"), "search"]
    return make_table("what was searched", head, rows, text_columns=5)


def candidates(search: dict[str, Any]) -> str:
    found = search.get("candidates")
    parts = []
    for one in found if isinstance(found, list) else []:
        if isinstance(one, dict):
            mean = number(one.get("mean"))
            parts.append(f"{compact(one.get('value'))}: {'diverged or missing' if mean is None else fixed(mean)}")
    return "; ".join(parts) or ABSENT
