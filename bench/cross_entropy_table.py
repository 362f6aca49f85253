"""The rows of bench/linear_cross_entropy.py as the tables of the README."""
import json
import pathlib

MEANINGS = {
    "lmhead auto": "lmhead",
    "lmhead small": "lmhead, small mode",
    "lmhead filtered": "lmhead, filtered",
    "plain": "`F.linear` + `F.cross_entropy`",
    "compiled": "the same under `torch.compile`",
    "official chunked": "`F.linear_cross_entropy`, chunked",
    "three products": "three matrix products alone",
    "tile products": "the same in tiles, factors laid out beforehand",
}


def newest(path: pathlib.Path) -> dict:
    """{shape name: {dtype: {entrant: {metric: row}}}}; a later line replaces an earlier one of the same entrant."""
    tables: dict = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        by_entrant = tables.setdefault(row["shape_name"], {}).setdefault(row["shape"]["dtype"], {})
        by_entrant.setdefault(row["entrant"], {})[row["metric"]] = row
    return tables


def cells(metrics: dict | None) -> list[str]:
    if not metrics or "seconds" not in metrics:
        return ["", "", ""]
    seconds = metrics["seconds"]["median"]
    time = f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.2f} ms"
    memory = metrics.get("extra_memory")
    return [time, f"{metrics['seconds']['ratio_to_first']:.3g}", f"{memory['median'] / 2**30:.3f} GiB" if memory else ""]


def markdown(path: pathlib.Path) -> str:
    lines = []
    for name, by_dtype in newest(path).items():
        shape = next(iter(next(iter(by_dtype.values())).values()))
        shape = next(iter(shape.values()))
        asked = f" (of {shape['rows_asked']:,})" if "rows_asked" in shape else ""
        size = shape["shape"]
        lines += [f"{name}: N = {size['N']:,}{asked}, D = {size['D']:,}, V = {size['V']:,}, {shape['threads']} threads", ""]
        lines.append("| entrant | " + " | ".join(f"{dtype} | ratio | extra memory" for dtype in by_dtype) + " |")
        lines.append("|---" * (1 + 3 * len(by_dtype)) + "|")
        for entrant, meaning in MEANINGS.items():
            if any(entrant in by_entrant for by_entrant in by_dtype.values()):
                values = [cell for by_entrant in by_dtype.values() for cell in cells(by_entrant.get(entrant))]
                lines.append(f"| {meaning} | " + " | ".join(values) + " |")
        facts = next((row for by_entrant in by_dtype.values() for row in by_entrant.get("lmhead filtered", {}).values()), None)
        if facts:
            lines += ["", f"Filter: threshold {facts['threshold']:.1e}, {100 * facts['tiles_skipped']:.1f} % of the tiles skipped, gradient error "
                      f"{facts['gradient_error']:.1e}; bfloat16's own {facts['bfloat16_gradient_error']:.1e}."]
        lines.append("")
    return "\n".join(lines).rstrip()


SUMMED_UP = {"plain": "eager", "compiled": "compiled", "tile products": "tiles"}


def summary(path: pathlib.Path) -> str:
    """One line a shape: lmhead's time, and every peer's over it."""
    dtypes = ["float32", "bfloat16"]
    head = [f"lmhead, {dtype} | " + " | ".join(SUMMED_UP.values()) for dtype in dtypes]
    lines = ["| shape | N | D | V | " + " | ".join(head) + " |", "|---" * (4 + len(dtypes) * (1 + len(SUMMED_UP))) + "|"]
    for name, by_dtype in newest(path).items():
        row = next(row for by_entrant in by_dtype.values() for metrics in by_entrant.values() for row in metrics.values())
        values = []
        for dtype in dtypes:
            by_entrant = by_dtype.get(dtype, {})
            values.append(cells(by_entrant.get("lmhead auto"))[0])
            values += [cells(by_entrant.get(entrant))[1] for entrant in SUMMED_UP]
        size = row["shape"]
        lines.append(f"| {name} | {size['N']:,} | {size['D']:,} | {size['V']:,} | " + " | ".join(values) + " |")
    return "\n".join(lines)
