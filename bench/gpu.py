#!/usr/bin/env python3
"""Times the loss of a linear head on a GPU, forward and backward, beside its peers and beside its three products alone.

Every entrant is first compared with float64, formed in blocks of rows: one that errs more than its type's rounding explains is named and not
timed. Then rounds go through the entrants in turn; time is that between two events on the device, memory the growth of the allocator's peak
over a step without the two gradients. Peers that are not installed are left out and named: Liger-Kernel, cut-cross-entropy, and torch's own
`linear_cross_entropy`. A row says what share of a step gradient retention takes at every tenth step.

`--device cpu --shapes tiny` runs the same code where there is no GPU, and times nothing that means anything.
"""
import argparse
import importlib
import statistics
import sys
import time

import result_rows
import torch
import torch.nn.functional as F

sys.path.insert(0, str(result_rows.ROOT / "python"))
sys.path.insert(0, str(result_rows.ROOT / "scripts"))
import find_gpu  # noqa: E402

SHAPES = {f"{width}x{vocabulary}": (8192, width, vocabulary) for width in (2048, 4096) for vocabulary in (32768, 128256, 262144)}
SHAPES["tiny"] = (96, 16, 257)
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
LARGEST_ERROR = {"float32": 1e-3, "bfloat16": 5e-2}  # relative, of loss and both gradients; float32 products may be TF32's no less
ROWS_OF_REFERENCE = 512


def lmhead_loss():
    from lmhead.ops import linear_cross_entropy

    return lambda hidden, weight, targets: linear_cross_entropy(hidden, weight, targets)


def eager_loss():
    return lambda hidden, weight, targets: F.cross_entropy((hidden @ weight.t()).float(), targets)


def compiled_loss():
    torch._dynamo.reset()  # every shape as if it were the only one: the compiler keeps few, and makes the second's sizes variables
    return torch.compile(eager_loss(), dynamic=False)


def torch_loss():
    chosen = F.linear_cross_entropy
    return lambda hidden, weight, targets: chosen(hidden, weight, targets)


def liger_loss():
    chosen = importlib.import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, targets: chosen(weight, hidden, targets)


def cut_loss():
    chosen = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    return lambda hidden, weight, targets: chosen(hidden, weight, targets)


ENTRANTS = {
    "lmhead": lmhead_loss, "torch eager": eager_loss, "torch compiled": compiled_loss, "torch linear_cross_entropy": torch_loss,
    "Liger-Kernel": liger_loss, "cut-cross-entropy": cut_loss,
}


class Problem:
    """Random features, weight and targets of one shape on a device, the same for every entrant."""

    def __init__(self, shape, dtype, device, seed=0):
        rows, width, vocabulary = shape
        generator = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(rows, width, generator=generator).to(device, dtype).requires_grad_()
        self.weight = (torch.randn(vocabulary, width, generator=generator) / width**0.5).to(device, dtype).requires_grad_()
        self.targets = torch.randint(vocabulary, (rows,), generator=generator).to(device)

    def step(self, loss):
        self.hidden.grad = self.weight.grad = None
        value = loss(self.hidden, self.weight, self.targets)
        value.backward()
        return value.detach()

    def products(self):
        """The three products that no loss with these gradients goes without, in blocks as large as our own chunks."""
        import lmhead.ops  # noqa: F401  (loads the library)

        with torch.no_grad():
            most = torch.ops.lmhead._fused_chunk_bytes(self.hidden.device)
            rows = max(1, min(len(self.hidden), most // (self.weight.shape[0] * self.weight.element_size())))
            for begin in range(0, len(self.hidden), rows):
                part = self.hidden[begin:begin + rows]
                logits = part @ self.weight.t()
                logits @ self.weight
                logits.t() @ part

    def exact(self):
        """Loss and both gradients in float64, from float64 logits of a block of rows at a time."""
        weight, total = self.weight.detach().double(), 0.0
        by_hidden, by_weight = torch.empty_like(self.hidden, dtype=torch.float64), torch.zeros_like(weight)
        for begin in range(0, len(self.hidden), ROWS_OF_REFERENCE):
            rows = slice(begin, begin + ROWS_OF_REFERENCE)
            hidden, targets = self.hidden[rows].detach().double(), self.targets[rows]
            log_p = (hidden @ weight.t()).log_softmax(1)
            total -= log_p.gather(1, targets[:, None]).sum().item()
            gradient = log_p.exp_()
            gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
            gradient /= len(self.hidden)
            by_hidden[rows] = gradient @ weight
            by_weight += gradient.t() @ hidden
        return total / len(self.hidden), by_hidden, by_weight

    def error(self, loss, exact):
        """The largest relative error of loss and gradients."""
        value = self.step(loss)
        errors = [abs(value.item() - exact[0]) / exact[0]]
        for got, want in ((self.hidden.grad, exact[1]), (self.weight.grad, exact[2])):
            errors.append(((got.double() - want).norm() / want.norm()).item())
        return max(errors)


class Clock:
    """Seconds and extra bytes of a call on a device."""

    def __init__(self, device):
        self.is_cuda = device.type == "cuda"

    def seconds(self, call):
        if not self.is_cuda:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def extra_bytes(self, call, gradients):
        if not self.is_cuda:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return max(0, torch.cuda.max_memory_allocated() - before - gradients)


def entrants_here(names):
    """Losses by name, of what is installed; the rest is named."""
    found = {}
    for name in names:
        try:
            found[name] = ENTRANTS[name]()
        except (ImportError, AttributeError) as error:
            print(f"  {name:28} is not here: {error}")
    return found


def retention_share(problem, clock, step_seconds):
    """Of ten steps, what one look at gradient retention takes."""
    from lmhead import GradientRetention

    retention = GradientRetention(problem.weight.detach())
    hidden = problem.hidden.detach()
    retention.update(hidden, problem.targets)  # what is made once
    return clock.seconds(lambda: retention.update(hidden, problem.targets)) / (10 * step_seconds)


def measure(shape_name, dtype_name, arguments, device):
    rows, width, vocabulary = shape = SHAPES[shape_name]
    print(f"\nN = {rows:,}, D = {width:,}, V = {vocabulary:,}, {dtype_name}, {device}")
    problem, clock = Problem(shape, DTYPES[dtype_name], device), Clock(device)
    exact, losses = problem.exact(), {}
    for name, loss in entrants_here(arguments.entrants).items():
        try:
            error = problem.error(loss, exact)
        except torch.OutOfMemoryError:
            print(f"  {name:28} does not fit into the device's memory and is not timed")
            continue
        if error <= LARGEST_ERROR[dtype_name]:
            losses[name] = loss
        else:
            print(f"  {name:28} errs by {error:.1e} against float64 and is not timed")
    del exact
    calls = {name: (lambda loss=loss: problem.step(loss)) for name, loss in losses.items()} | {"three products": problem.products}
    seconds = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            seconds[name].append(clock.seconds(call))
    gradients = sum(tensor.numel() * tensor.element_size() for tensor in (problem.hidden, problem.weight))
    found = []
    common = {"benchmark": "gpu", "shape": {"N": rows, "D": width, "V": vocabulary, "dtype": dtype_name}, "device": arguments.device_name}
    for name, call in calls.items():
        ratios = [own / floor for own, floor in zip(seconds[name], seconds["three products"])]
        problem.hidden.grad = problem.weight.grad = None
        memory = clock.extra_bytes(call, gradients) if name != "three products" else None
        found.append(common | {"entrant": name, "metric": "seconds", "unit": "s", "median": statistics.median(seconds[name]), "rounds": arguments.rounds,
                               "quantiles": [min(seconds[name]), max(seconds[name])], "ratio_to_products": statistics.median(ratios)})
        line = f"  {name:28} {1e3 * statistics.median(seconds[name]):9.2f} ms   {statistics.median(ratios):5.2f} x the three products"
        if memory is not None:
            found.append(common | {"entrant": name, "metric": "extra_memory", "unit": "bytes", "median": memory})
            line += f"   {memory / 2**20:9.1f} MiB"
        print(line, flush=True)
    if "lmhead" in losses:
        share = retention_share(problem, clock, statistics.median(seconds["lmhead"]))
        found.append(common | {"entrant": "lmhead", "metric": "share_of_retention", "unit": "", "median": share, "every": 10})
        print(f"  gradient retention at every tenth step takes {100 * share:.2f} % of the loss's time")
    result_rows.append(result_rows.file_of(arguments, "gpu"), found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[name for name in SHAPES if name != "tiny"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--entrants", nargs="+", choices=ENTRANTS, default=list(ENTRANTS))
    parser.add_argument("--rounds", type=int, default=7)
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    wrong = find_gpu.what_is_wrong(torch) if device.type == "cuda" else None
    if wrong:
        print(f"[bench-gpu] {wrong}", file=sys.stderr)
        return 2
    arguments.device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    for shape_name in arguments.shapes:
        for dtype_name in arguments.dtypes:
            measure(shape_name, dtype_name, arguments, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
