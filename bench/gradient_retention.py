#!/usr/bin/env python3
"""Times exact gradient retention beside the plain way (logits, softmax, float64 QR of W, projection), and compares the figures first."""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))


def plain(hidden, weight, targets):
    gradient = torch.softmax(hidden @ weight.t(), dim=1)
    gradient[torch.arange(len(targets)), targets] -= 1
    basis = torch.linalg.qr(weight.double())[0]
    kept = (gradient.double() @ basis).square().sum()
    return (1 - kept / gradient.double().square().sum()).sqrt().item()


def ours(hidden, weight, targets):
    from lmhead import GradientRetention

    retention = GradientRetention(weight)
    retention.update(hidden, targets)
    return retention.compute()["destroyed_ratio"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-sizes", nargs="+", type=int, default=[32768, 131072])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", default=str(ROOT / "bench/results/gradient_retention.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for vocabulary in arguments.vocab_sizes:
        torch.manual_seed(0)
        hidden, weight = torch.randn(2048, 512), torch.randn(vocabulary, 512) / 512**0.5
        targets = torch.randint(vocabulary, (2048,))
        seconds, figures = {ours: [], plain: []}, {}
        for _ in range(arguments.rounds):
            for entrant, times in seconds.items():
                start = time.perf_counter()
                figures[entrant] = entrant(hidden, weight, targets)
                times.append(time.perf_counter() - start)
        difference = abs(figures[ours] - figures[plain])
        if difference > 1e-6:
            raise SystemExit(f"[bench] destroyed_ratio must agree within 1e-6, got a difference of {difference:.1e}")
        ratio = statistics.median(b / a for a, b in zip(seconds[ours], seconds[plain]))
        print(f"V = {vocabulary:,}: lmhead {statistics.median(seconds[ours]):.2f} s, plain {statistics.median(seconds[plain]):.2f} s, "
              f"plain / lmhead {ratio:.2f}, figures differ by {difference:.0e}", flush=True)
        rows = [{"kernel": "gradient_retention", "entrant": entrant.__name__, "metric": "seconds", "unit": "s",
                 "shape": {"N": 2048, "D": 512, "V": vocabulary}, "median": statistics.median(times),
                 "quantiles": [min(times), max(times)], "rounds": arguments.rounds, "threads": arguments.threads,
                 "machine": platform.machine() + " " + torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__,
                 "date": datetime.date.today().isoformat()} for entrant, times in seconds.items()]
        pathlib.Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        with open(arguments.out, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
