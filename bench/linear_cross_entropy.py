#!/usr/bin/env python3
"""Times linear cross-entropy, forward and backward, against its peers in one interleaved run, and prints the table.

Every entrant is compared with a float64 reference before anything is timed. Rounds go through the entrants in turn, so that a change in
the machine's speed meets all of them; the ratio is the median over rounds. Extra memory is the growth of a fresh process's peak
over one step, without the two gradients that every entrant returns. Where the plain composition would not fit into memory, N is
halved until it does, and the row says so.

The shape `trained` is no random matrix but a head that `lmhead train` has trained, with the features of unseen text and the vocabulary
ordered by frequency: there, `lmhead filtered` skips what is too small to matter, at the largest threshold whose gradient error stays below
that of bfloat16's own arithmetic.
"""
import argparse
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "bench")]
import cross_entropy_table  # noqa: E402
import result_rows  # noqa: E402
import trained_head  # noqa: E402
from process_memory import status  # noqa: E402

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
    "trained": trained_head.SHAPE,
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


class TileProducts:
    """No loss at all: the same products of tiles that stay in the caches, with nothing else to do and factors laid out beforehand."""

    ROWS, COLUMNS = 512, 1024

    def __init__(self):
        self.weight, self.factors, self.product = None, None, None

    def __call__(self, hidden, weight, target):
        if self.weight is not weight:
            self.weight, self.factors = weight, self.laid_out(hidden.detach(), weight.detach())
            self.product = self.fastest(*self.factors[0])
        with torch.no_grad():
            for factors in self.factors:
                for left, right in factors:
                    self.product(left, right)
        return hidden[0, 0] + weight[0, 0]

    def laid_out(self, hidden, weight):
        """For each tile, what each product multiplies: rows of the left by rows of the right."""
        gradient = torch.randn(self.ROWS, self.COLUMNS).to(hidden.dtype)
        tiles = []
        for rows in hidden.split(self.ROWS):
            turned = rows.t().contiguous()
            for words in weight.split(self.COLUMNS):
                part = gradient[:len(rows), :len(words)].contiguous()
                # The weight's turned copy is one for all: that it is another tile's changes no product's time.
                tiles.append([(rows, words), (part, words.t().contiguous() if not tiles or len(words) != self.COLUMNS else tiles[0][1][1]),
                              (part.t().contiguous() if not tiles or part.shape != gradient.shape else tiles[0][2][0], turned)])
        return tiles

    @staticmethod
    def fastest(*factors):
        """ATen's product or oneDNN's: on processors that are not Intel's MKL leaves half of AVX-512 alone."""
        ways = [torch.nn.functional.linear]
        if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            ways.append(lambda left, right: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))

        def seconds(way):
            start = time.perf_counter()
            for left, right in factors:
                way(left, right)
            return time.perf_counter() - start

        with torch.no_grad():
            return min(ways, key=lambda way: min(seconds(way) for _ in range(5)))


ENTRANTS = {
    "lmhead auto": lambda: lmhead_entrant("auto"),
    "lmhead small": lambda: lmhead_entrant("small"),
    "plain": lambda: plain,
    "official chunked": lambda: official_chunked,
    "compiled": lambda: torch.compile(plain),
    "three products": lambda: three_products,
    "tile products": TileProducts,
}
NOT_A_LOSS = {"three products", "tile products"}
FILTERED = "lmhead filtered"
THRESHOLDS = [2.0 ** (-quarter / 4) for quarter in range(32, 80)]


def filtered_entrant(threshold):
    from lmhead.ops import filtered_linear_cross_entropy

    return lambda hidden, weight, target: filtered_linear_cross_entropy(hidden, weight, target, threshold)[0]


def inputs(shape_name, dtype, rows=None):
    """Leaves of this type, and targets; `rows` is N where another than the shape's is wanted."""
    if shape_name == "trained":
        hidden, weight, target = trained_head.load()
        hidden, target = hidden[:rows], target[:rows]
        return hidden.to(dtype).requires_grad_(), weight.to(dtype, copy=True).requires_grad_(), target
    shape_rows, width, vocabulary = SHAPES[shape_name]
    rows = rows or shape_rows
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


def rows_that_fit(shape, dtype):
    """N, halved until the plain composition fits into the memory that is there."""
    rows, width, vocabulary = shape
    available = next(1024 * int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
    size = torch.finfo(dtype).bits // 8
    # Weight and its gradient in float64 too, for the reference; logits in their type, in float32, and both gradients.
    while rows > 64 and vocabulary * width * (16 + 2 * size) + rows * vocabulary * (8 + 2 * size) > 0.8 * available:
        rows //= 2
    return rows


def gradient_error(entrant, data, exact):
    """The larger of the two gradients' relative errors, by Frobenius norms; `exact` are float64 leaves with gradients."""
    hidden, weight, target = data
    step(entrant, hidden, weight, target)
    pairs = [(hidden.grad, exact[0].grad), (weight.grad, exact[1].grad)]
    return max(((got.double() - want).norm() / want.norm()).item() for got, want in pairs)


def with_float64_gradients(data):
    """The same numbers as float64 leaves that have their gradients."""
    exact = [t.detach().double().requires_grad_() for t in data[:2]]
    step(plain, *exact, data[2])
    return exact


def choose_threshold(rows):
    """The largest threshold at which the filter errs less than bfloat16 arithmetic, and both errors."""
    data = inputs("trained", torch.bfloat16, rows)
    own = gradient_error(plain, data, with_float64_gradients(data))
    data = inputs("trained", torch.float32, rows)
    exact = with_float64_gradients(data)
    for threshold in THRESHOLDS:
        error = gradient_error(filtered_entrant(threshold), data, exact)
        if error < own:
            return threshold, error, own
    raise SystemExit(f"[bench] a threshold must err less than bfloat16 ({own:.1e}), got none down to {THRESHOLDS[-1]:.1e}")


def filter_facts(rows):
    """What the filter does to the trained head: threshold, errors, share of tiles skipped."""
    from lmhead.ops import filtered_linear_cross_entropy

    threshold, error, own = choose_threshold(rows)
    seen, skipped, _ = filtered_linear_cross_entropy(*inputs("trained", torch.float32, rows), threshold)[1].tolist()
    print(f"\nfilter on the trained head: threshold 2^{math.log2(threshold):.2f}, {100 * skipped / seen:.1f} % of {seen:.0f} tiles skipped, "
          f"gradient error {error:.1e}; bfloat16's own {own:.1e}", flush=True)
    return {"threshold": threshold, "tiles_skipped": skipped / seen, "gradient_error": error, "bfloat16_gradient_error": own}


def error_against_float64(entrant, shape_name, dtype, rows):
    """The largest error of loss and gradients relative to the largest entry, on the first rows (float64 is slow)."""
    hidden, weight, target = inputs(shape_name, dtype, min(rows, 64))
    loss = step(entrant, hidden, weight, target).detach()
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    reference = step(plain, *exact, target).detach()
    pairs = [(loss, reference), (hidden.grad, exact[0].grad), (weight.grad, exact[1].grad)]
    return max(((got.double() - want).abs().max() / want.abs().max()).item() for got, want in pairs)


def extra_memory(name, shape_name, dtype_name, rows, threshold, threads):
    """In bytes, from a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", name, "--shapes", shape_name, "--dtypes", dtype_name, "--rows", str(rows),
         "--threads", str(threads), "--threshold", str(threshold)],
        capture_output=True, text=True, check=True,
    )
    return int(done.stdout.split()[-1])


def print_memory(arguments):
    shape_name, dtype = arguments.shapes[0], DTYPES[arguments.dtypes[0]]
    entrant = filtered_entrant(arguments.threshold) if arguments.memory_of == FILTERED else ENTRANTS[arguments.memory_of]()
    data = inputs(shape_name, dtype, arguments.rows)
    # A small call first, so that libraries' own buffers and the compiler are not counted.
    small = [t.detach()[:size].clone().requires_grad_() for t, size in zip(data, (64, 512))]
    step(entrant, *small, data[2][:64] % 512)
    gradients = sum(t.numel() * t.element_size() for t in data[:2])
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = status("VmHWM")
    step(entrant, *data)
    print(max(0, status("VmHWM") - before - gradients))


def measure(shape_name, dtype_name, arguments):
    shape, dtype = SHAPES[shape_name], DTYPES[dtype_name]
    rows_asked, rows_used = shape[0], arguments.rows or rows_that_fit(shape, dtype)
    shape = (rows_used, *shape[1:])
    entrants = {name: ENTRANTS[name]() for name in arguments.entrants}
    data = inputs(shape_name, dtype, rows_used)
    facts = {}
    if shape_name == "trained":
        facts[FILTERED] = filter_facts(rows_used)
        entrants[FILTERED] = filtered_entrant(facts[FILTERED]["threshold"])
    errors = {}
    for name in entrants.keys() - NOT_A_LOSS:
        if name == FILTERED:  # errs by intent; choose_threshold has held it against bfloat16
            errors[name] = gradient_error(entrants[name], data, with_float64_gradients(data))
            continue
        errors[name] = error_against_float64(entrants[name], shape_name, dtype, rows_used)
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
    reduced = f" (of {rows_asked:,}, {'as asked' if arguments.rows else 'to fit into memory'})" if rows_used < rows_asked else ""
    print(f"\n{shape_name}: N = {shape[0]:,}{reduced}, D = {shape[1]:,}, V = {shape[2]:,}, {dtype_name}")
    ours = seconds[arguments.entrants[0]]
    for name in entrants:
        times = seconds[name]
        ratio = statistics.median(other / own for own, other in zip(ours, times))
        memory = (
            extra_memory(name, shape_name, dtype_name, rows_used, facts.get(name, {}).get("threshold", 0), arguments.threads)
            if arguments.memory else None
        )
        extra = f"{memory / 2**30:8.3f} GiB" if memory is not None else ""
        extra += f"   error {errors[name]:.0e}" if name in errors else ""
        print(f"  {name:18} {1e3 * statistics.median(times):10.1f} ms  (min {1e3 * min(times):.1f}, max {1e3 * max(times):.1f})"
              f"   {ratio:5.2f} x {arguments.entrants[0]} {extra}", flush=True)
        common = {
            "kernel": "linear_cross_entropy", "entrant": name, "shape_name": shape_name,
            "shape": {"N": shape[0], "D": shape[1], "V": shape[2], "dtype": dtype_name}, "threads": arguments.threads,
            **({"rows_asked": rows_asked} if rows_used < rows_asked else {}), **facts.get(name, {}),
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
    parser.add_argument("--rows", type=int, help="N, in place of the shape's own")
    parser.add_argument("--markdown", action="store_true", help="print the newest rows of that file as tables, run nothing")
    parser.add_argument("--summary", action="store_true", help="the same as one table, a line a shape")
    parser.add_argument("--memory-of", choices=[*ENTRANTS, FILTERED], help=argparse.SUPPRESS)
    parser.add_argument("--threshold", type=float, help=argparse.SUPPRESS)
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.markdown:
        print(cross_entropy_table.markdown(result_rows.file_of(arguments, "linear_cross_entropy")))
        return
    if arguments.summary:
        print(cross_entropy_table.summary(result_rows.file_of(arguments, "linear_cross_entropy")))
        return
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_memory(arguments)
        return
    for shape_name in arguments.shapes:
        for dtype_name in arguments.dtypes:
            result_rows.append(result_rows.file_of(arguments, "linear_cross_entropy"), measure(shape_name, dtype_name, arguments))


if __name__ == "__main__":
    main()
