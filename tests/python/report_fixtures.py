"""Made-up runs and studies on disk, and a report's page taken apart."""

import html.parser
import json
import math
import random
import re

from lmhead.report import command as report
from scipy import stats

# What must never become markup, wherever it stands.
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> & %{y} "
    "<a href='http://evil.example'>\u202e\ud800"
)
VOCAB_SIZE, HIDDEN_SIZE, TOKENS_A_STEP = 4096, 128, 1024


def make_run(
    folder,
    rank=HIDDEN_SIZE,
    seed=0,
    steps=60,
    logged=None,
    loss_shift=0.0,
    state="finished",
    validation=True,
    retention=True,
    **configuration,
):
    """Writes a run with made-up curves (no summary where `state` is None); returns its validation loss."""
    folder.mkdir(parents=True)
    draw = random.Random(f"{rank} {seed}")
    config = {
        "data": {"path": "data/corpus", "batch_size": 8},
        "model": {"hidden_size": HIDDEN_SIZE, "num_hidden_layers": 4},
        "head": {"type": "low_rank" if rank < HIDDEN_SIZE else "linear", "rank": rank},
        "optimizer": {"type": "adamw", "learning_rate": 0.001, "betas": [0.9, 0.95]},
        "training": {"steps": steps, "seed": seed},
        **configuration,
    }
    (folder / "config.json").write_text(json.dumps(config))
    final = None
    with (folder / "log.jsonl").open("w") as log:
        for step in range(1, (steps if logged is None else logged) + 1):
            floor = 3.1 + 1.8 / math.sqrt(rank) + loss_shift + draw.gauss(0, 0.003)
            loss = floor + 5.2 * math.exp(-step / (0.11 * steps)) + 0.5 * math.exp(-step / (0.5 * steps))
            line = {
                "step": step,
                "tokens": step * TOKENS_A_STEP,
                "loss": loss + draw.gauss(0, 0.08),
                "learning_rate": 1e-3,
                "gradient_norm": 1.0,
                "tokens_per_second": 3000.0,
                "wall_seconds": step * (0.33 + rank / 3000),
            }
            if validation and (step % max(1, steps // 12) == 0 or step == 1):
                line["validation"] = {
                    "loss": loss,
                    "perplexity": math.exp(loss),
                    "bits_per_byte": loss / 2.6,
                    "tokens": 5000,
                    "top1_accuracy": 0.3,
                }
                final = line
            if retention and (step % 10 == 0 or step == 1):
                null = math.sqrt(1 - rank / (VOCAB_SIZE - 1))
                ratio = (
                    null
                    - (1 - null) * (0.1 + 0.9 * math.exp(-step / steps * 4))
                    + draw.gauss(0, 1e-4) * (1 - null)
                )
                line["gradient_retention"] = {
                    "destroyed_ratio": ratio,
                    "null_destroyed_ratio": null,
                    "destroyed_excess": ratio - null,
                    "retained_energy": 1 - ratio**2,
                    "visible_cosine": math.sqrt(1 - ratio**2),
                    "step_cosine": 0.1,
                    "head_rank": rank,
                    "head_condition": 30.0,
                    "tokens": TOKENS_A_STEP,
                }
            log.write(json.dumps(line) + "\n")
    if state is not None:
        summary = {
            "state": state,
            "steps": steps,
            "tokens": steps * TOKENS_A_STEP,
            "wall_seconds": 20.0,
            "measure_seconds": 1.0,
            "tokens_per_second": 3000.0,
            "peak_memory_bytes": 5e8,
            "parameters_head": VOCAB_SIZE * rank,
            "best": {"step": steps, "validation_loss": 3.5},
            "vocab_size": VOCAB_SIZE,
            "hidden_size": HIDDEN_SIZE,
            "head_singular_values": [12.0 / (1 + 0.05 * index) for index in range(rank)]
            + [1e-9] * (HIDDEN_SIZE - rank),
            "dataset": {"content_hash": "c0ffee"},
            "version": "0.1.0",
            "torch_version": "2.13.0",
            "threads": 2,
            "started": "2026-01-02T03:04:05Z",
            "finished": "2026-01-02T03:05:05Z",
        }
        (folder / "summary.json").write_text(json.dumps(summary | ({"final": final} if final else {})))
    return final["validation"]["loss"] if final else None


def make_study(folder, arms=(("rank=4", 4), ("rank=16", 16), ("full", HIDDEN_SIZE)), seeds=1, steps=60):
    """Writes a finished study; returns the last validation losses by (arm, seed)."""
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"name": "ladder", "seeds": list(range(seeds))}))
    losses, rows = {}, []
    for arm, rank in arms:
        for seed in range(seeds):
            run = f"runs/{re.sub('[^A-Za-z0-9._-]', '-', arm)}/seed-{seed}"
            losses[arm, seed] = make_run(folder / run, rank, seed, steps)
            rows.append(
                {
                    "study": "ladder",
                    "arm": arm,
                    "seed": seed,
                    "run": run,
                    "step": steps,
                    "metric": "validation.loss",
                    "value": losses[arm, seed],
                    "unit": "nats per token",
                }
            )
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "statistics.json").write_text(json.dumps(statistics_of(losses, [arm for arm, _ in arms], seeds)))
    return losses


def statistics_of(losses, arms, seeds):
    """As lmhead study writes it, of every ordered pair of arms."""
    comparisons = []
    for baseline in arms:
        for arm in arms:
            if arm == baseline:
                continue
            ours = [losses[arm, seed] for seed in range(seeds)]
            theirs = [losses[baseline, seed] for seed in range(seeds)]
            mean = sum(ours) / seeds - sum(theirs) / seeds
            entry = {"baseline": baseline, "arm": arm, "seeds": list(range(seeds)), "mean_difference": mean}
            if seeds > 1:
                interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
                entry |= {"interval": [interval.low, interval.high], "p_value": 0.01, "holm_p": 0.02}
            finding = "harm" if mean > 0 else "gain"
            comparisons.append(entry | {"finding": finding, "verdict": f"{finding} shown"})
    return {
        "format": "lmhead-study-statistics",
        "outcome": "validation.loss",
        "unit": "nats/token",
        "higher_is_better": False,
        "margin": 0.02,
        "comparisons": comparisons,
        "arms": [],
    }


class Page(html.parser.HTMLParser):
    """The page's elements, its visible text, its tables as lists of rows, and its scripts."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self.tables, self.scripts, self.inside = [], [], [], [], []
        self.feed(path.read_text())
        self.text = re.sub(r"\s+", " ", " ".join(self.words))
        self.data = json.loads(next(body for kind, body in self.scripts if kind == "application/json"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "script":
            self.scripts.append((dict(attributes).get("type"), ""))
        if tag in ("meta", "br", "line", "path"):
            self.inside.pop()

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if "script" in self.inside:
            self.scripts[-1] = self.scripts[-1][0], self.scripts[-1][1] + data
        elif "style" not in self.inside:
            self.words.append(data)
            if "td" in self.inside or "th" in self.inside:
                self.tables[-1][-1][-1] += data


def report_of(folder):
    assert report.main([str(folder)]) == 0
    return Page(folder / "report.html")


def panel(page, identity):
    return next(entry for entry in page.data["panels"] if entry["id"] == identity)
