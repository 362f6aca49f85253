#!/usr/bin/env python3
"""Trains the reference model with lmhead and with plain PyTorch in turn, compares the losses, then prints both speeds.

The model: 6 layers, width 256, SwiGLU 684, 4 heads, V = 8,192, 16 sequences of 128, AdamW; `--model 124m` is one of 124 million parameters. Every entrant starts from the same
weights and sees the same 2,048 tokens at every step. Entrants run one after another, several rounds; a round's figure is the median
over its steps without the first ones.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy
import result_rows
import torch

ROOT = result_rows.ROOT
MODELS = {  # shape, and sequences of a step
    "small": ({"vocab": 8192, "width": 256, "inner": 684, "layers": 6, "heads": 4, "length": 128}, 16),
    "124m": ({"vocab": 50304, "width": 768, "inner": 2048, "layers": 12, "heads": 12, "length": 1024}, 16),  # for a GPU
}
SHAPE, SEQUENCES = MODELS["small"]
DEVICE, LMHEAD = "cpu", str(ROOT / ".venv/bin/lmhead")
LEARNING_RATE = 1e-3
SKIPPED_STEPS = 4


def make_inputs(folder: pathlib.Path) -> dict:
    """One batch of tokens as a dataset whose only windows they are, and one set of weights."""
    sys.path.insert(0, str(ROOT / "bench"))
    from reference_model import Llama
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = Llama(**{k: SHAPE[k] for k in ("vocab", "width", "inner", "layers", "heads", "length")})
    weights = folder / "weights.safetensors"
    save_file({name: p.detach() for name, p in model.named_parameters()}, weights)
    # Zipf-distributed ids: the embedding's gradient touches few rows often, as with text.
    count = SEQUENCES * SHAPE["length"] + 1
    ids = numpy.random.default_rng(0).zipf(1.3, count) % SHAPE["vocab"]
    data = folder / "data"
    data.mkdir()
    for name in ("train.bin", "val.bin"):
        ids.astype("<u2").tofile(data / name)
    windows = [ids[i * SHAPE["length"] : (i + 1) * SHAPE["length"] + 1].tolist() for i in range(SEQUENCES)]
    return {"weights": str(weights), "data": str(data), "tokens": sum(windows, [])}


def configuration_of(inputs: dict, precision: str, steps: int) -> dict:
    return {
        "data": {"path": inputs["data"], "sequence_length": SHAPE["length"], "batch_size": SEQUENCES, "validation_tokens": 128, "shift_windows": False},
        "model": {
            "hidden_size": SHAPE["width"], "intermediate_size": SHAPE["inner"], "num_hidden_layers": SHAPE["layers"],
            "num_attention_heads": SHAPE["heads"], "vocab_size": SHAPE["vocab"],
        },
        "optimizer": {"learning_rate": LEARNING_RATE},
        "training": {"steps": steps, "precision": precision, "validate_every": 0, "checkpoint_every": 0, "initial_weights": inputs["weights"], "device": DEVICE},
    }


def run_lmhead(inputs: dict, folder: pathlib.Path, precision: str, steps: int, threads: int, measure_every: int = 0, measure_tokens: int = 0) -> dict:
    configuration = configuration_of(inputs, precision, steps)
    configuration["training"]["threads"] = threads
    configuration["observe"] = {"gradient_retention": {"every": measure_every, "tokens": measure_tokens}}
    run = pathlib.Path(tempfile.mkdtemp(dir=folder))
    file = run / "bench.json"
    file.write_text(json.dumps(configuration))
    subprocess.run([LMHEAD, "train", file, "--run", run / "run"], check=True, capture_output=True)
    lines = [json.loads(line) for line in (run / "run/log.jsonl").read_text().splitlines()]
    tokens = SEQUENCES * SHAPE["length"]
    return {
        "losses": [line["loss"] for line in lines],
        "seconds": [tokens / line["tokens_per_second"] for line in lines],
        "measured": [index for index, line in enumerate(lines) if "gradient_retention" in line],
        "measure_seconds": lines[-1]["measure_seconds"],
    }


def share_of_measuring(run: dict) -> float:
    """What measuring took of the training time: the observers' own time, and by how much the steps that they looked at were slower."""
    others = statistics.median(value for index, value in enumerate(run["seconds"]) if index not in run["measured"])
    slower = sum(run["seconds"][index] - others for index in run["measured"])
    return (run["measure_seconds"] + slower) / (len(run["seconds"]) * others)


def run_torch(inputs: dict, folder: pathlib.Path, precision: str, steps: int, threads: int, compiled: bool) -> dict:
    request = {
        "shape": SHAPE, "weights": inputs["weights"], "tokens": inputs["tokens"], "steps": steps, "threads": threads,
        "precision": precision, "compile": compiled, "learning_rate": LEARNING_RATE, "device": DEVICE,
    }
    file = folder / "request.json"
    file.write_text(json.dumps(request))
    done = subprocess.run(
        [sys.executable, ROOT / "bench/reference_model.py", file], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    global SHAPE, SEQUENCES, DEVICE, LMHEAD
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile as a third entrant (slow to start)")
    parser.add_argument("--precisions", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--device", default=DEVICE, help="where both train; no GPU has run this here")
    parser.add_argument("--lmhead", default=LMHEAD, help="the command, of the build that the device takes")
    parser.add_argument("--no-measuring", dest="measuring", action="store_false", help="leave out what measuring gradient retention costs")
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    (SHAPE, SEQUENCES), DEVICE, LMHEAD = MODELS[arguments.model], arguments.device, arguments.lmhead
    tokens = SEQUENCES * SHAPE["length"]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        inputs = make_inputs(folder)
        for precision in arguments.precisions:
            entrants = {
                "lmhead": lambda: run_lmhead(inputs, folder, precision, arguments.steps, arguments.threads),
                "torch eager": lambda: run_torch(inputs, folder, precision, arguments.steps, arguments.threads, False),
            }
            if arguments.compile:
                entrants["torch compiled"] = lambda: run_torch(
                    inputs, folder, precision, arguments.steps, arguments.threads, True
                )
            speeds = {entrant: [] for entrant in entrants}
            losses = {}
            for _ in range(arguments.rounds):
                for entrant, run in entrants.items():
                    result = run()
                    losses[entrant] = result["losses"]
                    speeds[entrant].append(tokens / statistics.median(result["seconds"][SKIPPED_STEPS:]))
            worst = max(abs(a - b) for a, b in zip(losses["lmhead"][:20], losses["torch eager"][:20]))
            print(f"{precision}: largest difference of the first {min(20, arguments.steps)} losses {worst:.1e}")
            if precision == "float32" and worst > 1e-4:
                print("[bench] float32 losses must agree within 1e-4; nothing was timed", file=sys.stderr)
                return 1
            for entrant, values in speeds.items():
                ratios = sorted(a / b for a, b in zip(speeds["lmhead"], values))
                print(
                    f"  {entrant:15} {statistics.median(values):8.0f} tokens/s "
                    f"(rounds {min(values):.0f} to {max(values):.0f})   lmhead / it {statistics.median(ratios):.2f}"
                )
                rows.append(
                    {
                        "kernel": "training_step", "entrant": entrant, "metric": "tokens_per_second", "unit": "tokens/s",
                        "shape": SHAPE | {"sequences": SEQUENCES, "precision": precision}, "median": statistics.median(values),
                        "quantiles": [min(values), max(values)], "rounds": arguments.rounds, "threads": arguments.threads, "device": DEVICE,
                    }
                )
        for precision in arguments.precisions if arguments.measuring else []:
            for chosen, words in ((0, "on every token"), (512, "on 512 evenly spaced tokens"), (256, "on 256")):
                shares = [
                    share_of_measuring(
                        run_lmhead(inputs, folder, precision, 40, arguments.threads, measure_every=10, measure_tokens=chosen)
                    )
                    for _ in range(arguments.rounds)
                ]
                share = statistics.median(shares)
                print(f"{precision}: gradient retention every 10 steps {words}: {100 * share:.2f} % of the training time")
                rows.append(
                    {
                        "kernel": "training_step", "entrant": "lmhead", "metric": "share_of_measuring", "unit": "",
                        "shape": SHAPE | {"sequences": SEQUENCES, "precision": precision}, "measured_tokens": chosen, "every": 10,
                        "median": share, "quantiles": [min(shares), max(shares)], "rounds": arguments.rounds, "threads": arguments.threads, "device": DEVICE,
                    }
                )
    result_rows.append(result_rows.file_of(arguments, "training_step"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
