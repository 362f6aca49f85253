"""The rows of bench/evaluation.py as a table."""
import json
import pathlib


def newest(path: pathlib.Path) -> list[dict]:
    """The last timing of every shape, type and kind, with the last memory."""
    rows: dict = {}
    for text in path.read_text().splitlines() if path.is_file() else []:
        row = json.loads(text)
        key = row["shape_name"], row["kind"], row["dtype"]
        if "ratio" in row:
            rows[key] = row
        elif key in rows:
            rows[key] |= {"memory": row["memory"]}
    return list(rows.values())


def ratio(row: dict) -> str:
    low, high = row["ratio_quantiles"]
    return f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def memory(row: dict, of: str) -> list[str]:
    """Ours, the backend's, and their ratio."""
    if "memory" not in row:
        return ["", "", ""]
    ours, theirs = row["memory"]["lmhead"][of], row["memory"]["hf"][of]
    return [f"{ours / 2**30:.2f} GiB", f"{theirs / 2**30:.2f} GiB", f"{ours / theirs:.2f}"]


def line(row: dict) -> str:
    """A row on a terminal."""
    told = f"{row['lmhead']:.2f}/s against {row['hf']:.2f}/s of batches of {row['batch_size']}: {ratio(row)}, worst difference {row['worst_difference']:.2g} nats"
    if "memory" in row:
        told += "; peak {} against {}: {}".format(*memory(row, "peak")) + "; growth {} against {}: {}".format(*memory(row, "growth"))
    return told


def summary(path: pathlib.Path) -> str:
    rows = newest(path)
    if not rows:
        return "No timing has been recorded yet."
    lines = ["| requests | products | lmhead | `hf`, its best batch | ratio [spread] | worst difference | peak memory | `hf` | ratio |", "|---" * 9 + "|"]
    for row in sorted(rows, key=lambda row: (row["shape_name"], row["kind"], row["dtype"] != "float32")):
        lines.append("| " + " | ".join([f"{row['requests']} {row['kind']}", row["dtype"], f"{row['lmhead']:.2f}/s", f"{row['hf']:.2f}/s ({row['batch_size']})",
                                        ratio(row), f"{row['worst_difference']:.1g} nats", *memory(row, "peak")]) + " |")
    shapes = {row["shape_name"]: row for row in rows}
    for name, row in shapes.items():
        lines += ["", f"{name}, random weights, windows of {row['max_length']:,} tokens, {row['threads']} threads ({row['machine']}); questions of {', '.join(row['sets'])}."]
    return "\n".join(lines)
