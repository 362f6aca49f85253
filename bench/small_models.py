#!/usr/bin/env python3
"""Times a training step of the small models of the studies against its own matrix products, alone and two runs at once.

One thread a run, as `lmhead study --jobs` has it. The products are those of the step and nothing else: every projection forwards and twice
backwards, the attention's six and the head's three, each called through PyTorch on tensors of the step's shapes. What a step adds
to them (norms, activations, softmax, optimiser, batches, log) is the rest of its time.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import result_rows
import torch

ROOT = result_rows.ROOT
MODELS = {  # data, model, sequences a step, their length
    "bytes-width-32": ({"path": "data/bytes"}, {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}, 16, 128),
    "bpe8192-width-96": ({"path": "data/bpe8192"}, {"hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 256}, 8, 128),
    "spamlang-width-32": ({"kind": "spamlang", "spamlang": {"vocab_size": 1024}}, {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}, 32, 64),
}
VOCABULARY = {"bytes-width-32": 257, "bpe8192-width-96": 8192, "spamlang-width-32": 1024}


def configuration(name: str, steps: int) -> dict:
    data, model, sequences, length = MODELS[name]
    if "path" in data:
        data = {"path": str(ROOT / data["path"])}
    return {
        "data": {**data, "batch_size": sequences, "sequence_length": length, "validation_tokens": 2048},
        "model": model,
        "training": {"steps": steps, "threads": 1, "validate_every": 0, "checkpoint_every": 0},
    }


def tokens_per_second(name: str, steps: int, at_once: int) -> float:
    """The median over steps, the mean over the runs that go on at once."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "config.json"
        file.write_text(json.dumps(configuration(name, steps)))
        runs = [pathlib.Path(folder) / f"run-{index}" for index in range(at_once)]
        processes = [subprocess.Popen([ROOT / ".venv/bin/lmhead", "train", file, "--run", run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for run in runs]
        for process in processes:
            if process.wait() != 0:
                raise SystemExit(f"lmhead train failed on {name}")
        return statistics.mean(json.loads((run / "summary.json").read_text())["tokens_per_second"] for run in runs)


def median_seconds(call, repeats: int = 15) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def product_seconds(name: str) -> float:
    """The matrix products of one step."""
    _, model, sequences, length = MODELS[name]
    width, inner, heads = model["hidden_size"], model["intermediate_size"], model["num_attention_heads"]
    tokens, vocabulary = sequences * length, VOCABULARY[name]
    layer = [(3 * width, width), (width, width), (2 * inner, width), (width, inner)]
    seconds = 0.0
    for rows, columns in layer * model["num_hidden_layers"] + [(vocabulary, width)]:
        x, weight, above = torch.randn(tokens, columns), torch.randn(rows, columns), torch.randn(tokens, rows)
        seconds += median_seconds(lambda: (x @ weight.t(), above @ weight, above.t() @ x))
    shape = (sequences * heads, length, width // heads)
    query, key, value, above = (torch.randn(shape) for _ in range(4))
    scores = torch.randn(sequences * heads, length, length)

    def attention():  # as many as a causal kernel needs at least; half of each lies above the diagonal
        query @ key.transpose(1, 2), scores @ value
        above @ value.transpose(1, 2), scores @ key, scores.transpose(1, 2) @ query, scores.transpose(1, 2) @ above

    return seconds + model["num_hidden_layers"] * median_seconds(attention) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':20} {'tokens/s':>9} {'two at once':>12} {'step':>9} {'products':>9} {'ratio':>6} {'runs of 600 steps an hour':>26}")
    for name in arguments.models:
        data = MODELS[name][0].get("path")
        if data and not (ROOT / data / "dataset.json").exists():
            kind = ["--bytes"] if data.endswith("bytes") else ["--vocab-size", str(VOCABULARY[name])]
            subprocess.run([ROOT / ".venv/bin/lmhead", "prepare", ROOT / data, *kind], check=True)
        rounds = [(tokens_per_second(name, arguments.steps, 1), tokens_per_second(name, arguments.steps, 2), product_seconds(name)) for _ in range(arguments.rounds)]
        alone, together, products = (statistics.median(column) for column in zip(*rounds))
        tokens = MODELS[name][2] * MODELS[name][3]
        hourly = 2 * 3600 / (600 * tokens / together)
        print(f"{name:20} {alone:9.0f} {together:12.0f} {1e3 * tokens / alone:6.1f} ms {1e3 * products:6.1f} ms {tokens / alone / products:6.2f} {hourly:26.0f}")
        row = {"benchmark": "small_models", "model": name, "unit": "tokens/s of a run", "alone": alone, "two_at_once": together, "product_seconds": products, "tokens_per_step": tokens,
               "rounds": arguments.rounds, "steps": arguments.steps, "threads": 1}
        result_rows.append(result_rows.file_of(arguments, "small_models"), [row])


if __name__ == "__main__":
    main()
