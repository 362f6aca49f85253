#!/usr/bin/env python3
"""Times linear cross-entropy, forward and backward, against its peers in one interleaved run, and prints the table.

Every entrant is compared with a float64 reference before anything is timed. Rounds go through the entrants in turn, so that a change in
the machine's speed meets all of them; the ratio is the median over rounds. Extra memory is the growth of a fresh process's peak
over one step, without the two gradients that every entrant returns.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))

SHAPES = {  # name: (N, D, V)
    "sweep-32k": (2048, 512, 32768),
    "sweep-131k": (2048, 512, 131072),
    "gpt2-small": (1024, 768, 50257),
    "pythia-160m": (1024, 768, 50304),
    "smollm2-135m": (1024, 576, 49152),
    "llama-3.2-1b": (512, 2048, 128256),
    "qwen3-0.6b": (512, 1024, 151936),
    "gemma-3-270m": (512, 640, 262144),
    "small-64x2k": (2048, 64, 2048),
    "small-96x8k": (1024, 96, 8192),
    "small-64x131k": (256, 64, 131072),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# An entrant that errs more against float64 computes something else: about a thousand roundings of
# float32, ten of bfloat16.
LARGEST_ERROR = {"float32": 1e-4, "bfloat16": 5e-2}


def plain(hidden, weight, target):
    return F.cross_entropy(F.linear(hidden, weight), target)


def lmhead_entrant(mode):
    from lmhead.ops import linear_cross_entropy

    return lambda hidden, weight, target: linear_cross_entropy(hidden, weight, target, mode=mode)


def official_chunked(hidden, weight, target):
    return F.linear_cross_entropy(hidden, weight, target, options=torch.nn.LinearCrossEntropyOptions())


def three_products(hidden, weight, target):
    """No loss at all: what the matrix products alone cost on the whole matrices."""

    class Products(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, weight):
            logits = hidden @ weight.t()
            ctx.gradients = logits @ weight, logits.t() @ hidden
            return logits[0, 0]

        @staticmethod
        def backward(ctx, _):
            return ctx.gradients

    return Products.apply(hidden, weight)


ENTRANTS = {
    "lmhead auto": lambda: lmhead_entrant("auto"),
    "lmhead small": lambda: lmhead_entrant("small"),
    "plain": lambda: plain,
    "official chunked": lambda: official_chunked,
    "compiled": lambda: torch.compile(plain),
    "three products": lambda: three_products,
}
NOT_A_LOSS = {"three products"}


def inputs(shape, dtype):
    rows, width, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) / width**0.5
    target = torch.randint(vocabulary, (rows,), generator=generator)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), target


def step(entrant, hidden, weight, target):
    hidden.grad = weight.grad = None
    loss = entrant(hidden, weight, target)
    loss.backward()
    return loss


def error_against_float64(entrant, shape, dtype):
    """The largest error of loss and gradients relative to the largest entry, on the first rows (float64 is slow)."""
    hidden, weight, target = inputs((min(shape[0], 64), *shape[1:]), dtype)
    loss = step(entrant, hidden, weight, target).detach()
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    reference = step(plain, *exact, target).detach()
    pairs = [(loss, reference), (hidden.grad, exact[0].grad), (weight.grad, exact[1].grad)]
    return max(((got.double() - want).abs().max() / want.abs().max()).item() for got, want in pairs)


def extra_memory(name, shape_name, dtype_name, threads):
    """In bytes, from a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", name, "--shapes", shape_name, "--dtypes", dtype_name, "--threads", str(threads)],
        capture_output=True, text=True, check=True,
    )
    return int(done.stdout.split()[-1])


def print_memory(arguments):
    shape, dtype = SHAPES[arguments.shapes[0]], DTYPES[arguments.dtypes[0]]
    entrant = ENTRANTS[arguments.memory_of]()
    # A small call first, so that libraries' own buffers and the compiler are not counted.
    step(entrant, *inputs((64, shape[1], 512), dtype))
    data = inputs(shape, dtype)
    gradients = sum(t.numel() * t.element_size() for t in data[:2])
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = peak_bytes()
    step(entrant, *data)
    print(max(0, peak_bytes() - before - gradients))


def peak_bytes():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(shape_name, dtype_name, arguments):
    shape, dtype = SHAPES[shape_name], DTYPES[dtype_name]
    entrants = {name: ENTRANTS[name]() for name in arguments.entrants}
    data = inputs(shape, dtype)
    errors = {}
    for name in entrants.keys() - NOT_A_LOSS:
        errors[name] = error_against_float64(entrants[name], shape, dtype)
        if not errors[name] <= LARGEST_ERROR[dtype_name]:
            raise SystemExit(f"[bench] {name} must agree with float64 within {LARGEST_ERROR[dtype_name]}, got {errors[name]:.1e}")
    seconds = {name: [] for name in entrants}
    for round_number in range(arguments.rounds + 1):
        for name, entrant in entrants.items():
            start = time.perf_counter()
            step(entrant, *data)
            if round_number:  # the first round warms caches and compilers
                seconds[name].append(time.perf_counter() - start)
    rows = []
    print(f"\n{shape_name}: N = {shape[0]:,}, D = {shape[1]:,}, V = {shape[2]:,}, {dtype_name}")
    ours = seconds[arguments.entrants[0]]
    for name in entrants:
        times = seconds[name]
        ratio = statistics.median(other / own for own, other in zip(ours, times))
        memory = extra_memory(name, shape_name, dtype_name, arguments.threads) if arguments.memory else None
        extra = f"{memory / 2**30:8.3f} GiB" if memory is not None else ""
        extra += f"   error {errors[name]:.0e}" if name in errors else ""
        print(f"  {name:18} {1e3 * statistics.median(times):10.1f} ms  (min {1e3 * min(times):.1f}, max {1e3 * max(times):.1f})"
              f"   {ratio:5.2f} x {arguments.entrants[0]} {extra}", flush=True)
        common = {
            "kernel": "linear_cross_entropy", "entrant": name, "shape_name": shape_name,
            "shape": {"N": shape[0], "D": shape[1], "V": shape[2], "dtype": dtype_name}, "threads": arguments.threads,
            "machine": platform.machine() + " " + torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
        }
        rows.append(common | {"metric": "seconds", "unit": "s", "median": statistics.median(times),
                              "quantiles": [min(times), max(times)], "rounds": len(times), "ratio_to_first": ratio,
                              "error": errors.get(name)})
        if memory is not None:
            rows.append(common | {"metric": "extra_memory", "unit": "bytes", "median": memory})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["sweep-32k", "sweep-131k"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--entrants", nargs="+", choices=ENTRANTS, default=list(ENTRANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--memory-of", choices=ENTRANTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", default=str(ROOT / "bench/results/linear_cross_entropy.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_memory(arguments)
        return
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    for shape_name in arguments.shapes:
        for dtype_name in arguments.dtypes:
            rows = measure(shape_name, dtype_name, arguments)
            out = pathlib.Path(arguments.out)
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.writelines(json.dumps(row | {"commit": commit}) + "\n" for row in rows)


if __name__ == "__main__":
    main()
