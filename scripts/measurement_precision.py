"""What `lmhead measure --precision bfloat16` does to every figure: docs/results/measurement_precision.md.

    scripts/measurement_precision.py [MODEL ...]    measures each model twice, on the stories of ../shared/data

Without arguments the models are those of ../shared/data. Every number of the measurement is compared with that of float32 features;
the head's part is float32 in both.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared/data"
DOCUMENT = ROOT / "docs/results/measurement_precision.md"
MODELS = ["TinyStories-656K", "TinyStories-656K-bf16", "stories260K-hf"]
OPTIONS = ["--max-tokens", "8000", "--sample", "1024"]
COUNTS = {"tokens", "step", "training_tokens", "sequence_length", "hidden_size", "vocab_size"}


def measure(model: Path, precision: str, text: Path, out: Path) -> dict[str, Any]:
    command = [str(ROOT / ".venv/bin/lmhead"), "measure", str(model), "--text", str(text), "--precision", precision, *OPTIONS, "--json", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())["models"][0]


def numbers(figures: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number with its place; a list is named by its places."""
    if isinstance(figures, dict):
        for key, value in figures.items():
            yield from numbers(value, f"{path}.{key}" if path else key)
    elif isinstance(figures, list):
        for place, value in enumerate(figures):
            yield from numbers(value, f"{path}[{place}]")
    elif isinstance(figures, (int, float)) and not isinstance(figures, bool) and path.split(".")[-1] not in COUNTS:
        yield path, float(figures)


def compared(wide: dict[str, Any], narrow: dict[str, Any]) -> list[tuple[str, int, float, float, float]]:
    """Of each figure, the numbers of a list or a table taken together: how many, that of float32 and of bfloat16 where they differ most, and by how much."""
    groups: dict[str, list[tuple[float, float]]] = {}
    other = dict(numbers(narrow))
    for path, value in numbers(wide):
        parts = path.split("[")[0].split(".")
        groups.setdefault(".".join(parts[:2]), []).append((value, other.get(path, math.nan)))
    rows = []
    for name, pairs in groups.items():
        first, second = max(pairs, key=lambda pair: abs(pair[1] - pair[0]))
        rows.append((name, len(pairs), first, second, second - first))
    return rows


def write(models: list[Path]) -> str:
    lines = ["# What `--precision bfloat16` does to each figure", "",
             "Features by products of bfloat16 matrices against those of float32, on the same tokens and with the same head in float32; norms, the residual stream and attention's sums",
             "are float32 in both. Of a figure that is a list or a table, the number that differs most. The models are tiny, with two and five layers: a first idea, and no bound for others.", ""]
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "stories.jsonl"
        stories = json.loads((SHARED / "text/tinystories_1000.json").read_text())
        text.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
        for model in models:
            wide, narrow = (measure(model, precision, text, Path(scratch) / "out.json") for precision in ("float32", "bfloat16"))
            lines += [f"## {model.name}", f"{wide['tokens']} tokens, V = {wide['vocab_size']}, D = {wide['hidden_size']}.", "",
                      "| figure | numbers | float32 | bfloat16 | difference |", "|---|---|---|---|---|"]
            same = []
            for name, count, first, second, difference in compared(wide, narrow):
                if difference == 0:
                    same.append(f"`{name}`")
                else:
                    lines.append(f"| `{name}` | {count} | {first:.6g} | {second:.6g} | {difference:+.2g} |")
            lines += ["", "The same to the last bit: " + ", ".join(same) + ".", ""]
    lines += ["## How to repeat it", "", "    scripts/measurement_precision.py", "",
              "which asks for `lmhead measure MODEL --text stories.jsonl --precision float32|bfloat16 " + " ".join(OPTIONS) + "` of the first 1,000 stories of TinyStories.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(write([Path(given) for given in sys.argv[1:]] or [SHARED / "models" / name for name in MODELS]), encoding="utf-8")
