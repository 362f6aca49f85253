"""The rows of bench/heads.py as a table."""
import json
import pathlib

WHOLE_STEP = "whole training step with linear"


def title(settings: dict) -> str:
    """A head and the options that it was given, as text."""
    own = ", ".join(f"{key} {value}" for key, value in sorted(settings.items()) if key != "type")
    return settings["type"] + (f" ({own})" if own else "")


def newest(path: pathlib.Path) -> dict:
    """{shape name: {entrant: {metric: row}}}; a later line replaces an earlier one of the same entrant."""
    tables: dict = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        row = json.loads(line)
        tables.setdefault(row["shape_name"], {}).setdefault(row["entrant"], {})[row["metric"]] = row
    return tables


def cells(metrics: dict) -> list[str]:
    """Seconds, ratio to the linear head with its spread, extra memory over the linear head's."""
    seconds, memory = metrics.get("seconds"), metrics.get("extra_memory")
    found = ["", "", ""]
    if seconds:
        low, high = seconds["ratio_quantiles"]
        found[:2] = [f"{1e3 * seconds['median']:.4g} ms", f"{seconds['ratio_to_linear']:.2f} [{low:.2f}, {high:.2f}]"]
    if memory:
        found[2] = f"{memory['median'] / 2**20:.1f} MiB" + (f", {memory['median'] / memory['linear']:.2f}" if memory["linear"] >= 2**20 else "")
    return found


def summary(path: pathlib.Path) -> str:
    """A line a head, three columns a shape."""
    tables = newest(path)
    if not tables:
        return "No timing has been recorded yet."
    headings, entrants = [], []
    for shape_name, by_entrant in tables.items():
        size = next(iter(next(iter(by_entrant.values())).values()))["shape"]
        headings.append(f"{shape_name} (N = {size['N']:,}, D = {size['D']:,}, V = {size['V']:,}) | against linear [spread] | extra memory, against linear")
        entrants += [name for name in by_entrant if name not in entrants and name != WHOLE_STEP]
    lines = ["| head | " + " | ".join(headings) + " |", "|---" * (1 + 3 * len(headings)) + "|"]
    for name in entrants:
        values = [cell for by_entrant in tables.values() for cell in cells(by_entrant.get(name, {}))]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    for shape_name, by_entrant in tables.items():
        if whole := by_entrant.get(WHOLE_STEP, {}).get("seconds"):
            lines += ["", f"A whole training step of the studies' model with the linear head ({shape_name}): {1e3 * whole['median']:.4g} ms."]
    return "\n".join(lines)
