#!/usr/bin/env python3
"""Exact gradient retention beside the plain way (logits, softmax, float64 QR of W, projection): figures first, then time and memory.

Rounds go through the entrants in turn; the ratio is the median over rounds. Extra memory is the growth of a fresh process's peak over
one measurement, inputs not counted.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

import result_rows
import torch
from process_memory import status

ROOT = result_rows.ROOT
sys.path.insert(0, str(ROOT / "python"))

HIDDEN_SIZE, TOKENS, BATCH = 512, 2048, 2048


def plain(hidden, weight, targets):
    gradient = torch.softmax(hidden @ weight.t(), dim=1)
    gradient[torch.arange(len(targets)), targets] -= 1
    basis = torch.linalg.qr(weight.double())[0]
    kept = (gradient.double() @ basis).square().sum()
    return (1 - kept / gradient.double().square().sum()).sqrt().item()


def ours(hidden, weight, targets):
    from lmhead import GradientRetention

    retention = GradientRetention(weight)
    for start in range(0, len(targets), BATCH):
        retention.update(hidden[start:start + BATCH], targets[start:start + BATCH])
    return retention.compute()["destroyed_ratio"]


ENTRANTS = {"ours": ours, "plain": plain}


def inputs(vocabulary, tokens=TOKENS):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, HIDDEN_SIZE, generator=generator) / HIDDEN_SIZE**0.5
    return (torch.randn(tokens, HIDDEN_SIZE, generator=generator), weight,
            torch.randint(vocabulary, (tokens,), generator=generator))


def print_memory(arguments):
    entrant = ENTRANTS[arguments.memory_of]
    entrant(*inputs(600, 64))  # libraries' own buffers are not counted
    data = inputs(arguments.vocab_sizes[0], arguments.tokens)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = status("VmRSS")
    entrant(*data)
    print(max(0, status("VmHWM") - before))


def extra_memory(entrant, vocabulary, tokens, threads):
    """In bytes, from a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--memory-of", entrant, "--vocab-sizes", str(vocabulary), "--tokens",
                           str(tokens), "--threads", str(threads)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def measure_times(vocabulary, rounds):
    """Seconds of each entrant, round by round, and how much their figures differ."""
    data, seconds, figures = inputs(vocabulary), {name: [] for name in ENTRANTS}, {}
    for _ in range(rounds):
        for name, entrant in ENTRANTS.items():
            start = time.perf_counter()
            figures[name] = entrant(*data)
            seconds[name].append(time.perf_counter() - start)
    difference = abs(figures["ours"] - figures["plain"])
    if difference > 1e-6:
        raise SystemExit(f"[bench] destroyed_ratio must agree within 1e-6, got a difference of {difference:.1e}")
    return seconds, difference


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-sizes", nargs="+", type=int, default=[32768, 131072])
    parser.add_argument("--rounds", type=int, default=3, help="of timing; 0: memory alone")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--memory-of", choices=ENTRANTS, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help=argparse.SUPPRESS)
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_memory(arguments)
        return
    rows = []

    def add_row(entrant, vocabulary, tokens, **fields):
        rows.append({"kernel": "gradient_retention", "entrant": entrant,
                     "shape": {"N": tokens, "D": HIDDEN_SIZE, "V": vocabulary}, "threads": arguments.threads, **fields})

    for vocabulary in arguments.vocab_sizes:
        if arguments.rounds:
            seconds, difference = measure_times(vocabulary, arguments.rounds)
            ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["plain"]))
            print(f"V = {vocabulary:,}: lmhead {statistics.median(seconds['ours']):.2f} s, plain "
                  f"{statistics.median(seconds['plain']):.2f} s, plain / lmhead {ratio:.2f}, figures differ by {difference:.0e}",
                  flush=True)
            for entrant, times in seconds.items():
                add_row(entrant, vocabulary, TOKENS, metric="seconds", unit="s", median=statistics.median(times),
                        quantiles=[min(times), max(times)], rounds=arguments.rounds)
        if arguments.memory:
            asked = [("ours", TOKENS), ("plain", TOKENS), ("ours", 8 * TOKENS)]
            memory = {key: extra_memory(key[0], vocabulary, key[1], arguments.threads) for key in asked}
            own, other, longer = memory.values()
            print(f"V = {vocabulary:,}: extra memory lmhead {own / 2**30:.3f} GiB, plain {other / 2**30:.3f} GiB, lmhead / plain "
                  f"{own / other:.3f}; lmhead on {8 * TOKENS:,} tokens {longer / 2**30:.3f} GiB", flush=True)
            for (entrant, tokens), peak in memory.items():
                add_row(entrant, vocabulary, tokens, metric="extra_memory", unit="bytes", median=peak)
    result_rows.append(result_rows.file_of(arguments, "gradient_retention"), rows)


if __name__ == "__main__":
    main()
