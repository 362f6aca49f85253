#!/usr/bin/env python3
"""Times a training step of every head, forward and backward, beside the linear head's, and prints the table.

A head is timed in turn with the linear head, each step of the one right behind a step of the other, and the ratio is the median over
these pairs: what slows the machine meets both. Its spread is told and nothing is refused, so a noisy machine gives a wide one. Targets
follow Zipf's law, since some heads cost less for frequent words. A head with a schedule is timed at eight points of a run. Extra
memory is the growth of a fresh process's peak over one step, without the gradients. At the shape of the studies a whole training step is
timed too, from which the leaderboard knows what a head costs a run.

Peers are `torch.nn.AdaptiveLogSoftmaxWithLoss` and a mixture of softmaxes in plain PyTorch, beside `adaptive` and `mixture_of_softmaxes`.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import head_table
import result_rows
import torch
import torch.nn.functional as F
from process_memory import status

ROOT = result_rows.ROOT
sys.path.insert(0, str(ROOT / "python"))
SHAPES = {  # name: (N, D, V, tokens of a sequence)
    "study": (1024, 96, 8192, 128),
    "sweep-32k": (2048, 512, 32768, 512),
    "tiny": (64, 16, 256, 16),
}
LAYERS = 6
BOARD = ROOT / "studies/leaderboard/leaderboard.json"
SHARES_OF_A_RUN = [(2 * eighth + 1) / 16 for eighth in range(8)]


class PlainMixture(torch.nn.Module):
    """A mixture of softmaxes as one writes it in PyTorch; every probability of every component is formed."""

    def __init__(self, width, vocabulary, components):
        super().__init__()
        self.latent = torch.nn.Linear(width, components * width, bias=False)
        self.prior = torch.nn.Linear(width, components, bias=False)
        self.output = torch.nn.Linear(width, vocabulary, bias=False)

    def forward(self, hidden, targets):
        prior = self.prior(hidden).log_softmax(-1)
        features = torch.tanh(self.latent(hidden)).unflatten(-1, (prior.shape[-1], -1))
        log_p = torch.logsumexp(prior.unsqueeze(-1) + self.output(features).log_softmax(-1), 1)
        return F.nll_loss(log_p, targets)


class TorchAdaptive(torch.nn.Module):
    """Tails where `adaptive` has them by default."""

    def __init__(self, width, vocabulary):
        super().__init__()
        self.module = torch.nn.AdaptiveLogSoftmaxWithLoss(width, vocabulary, [-(-vocabulary // 16), -(-vocabulary // 4)], div_value=4)

    def forward(self, hidden, targets):
        return self.module(hidden, targets).loss


PEERS = {
    "torch adaptive": lambda width, vocabulary: TorchAdaptive(width, vocabulary),
    "plain mixture": lambda width, vocabulary: PlainMixture(width, vocabulary, 4),
}


def nested(settings):
    """Options with their groups as dictionaries, from dotted keys."""
    options = {}
    for key, value in settings.items():
        *groups, leaf = key.split(".")
        inner = options
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    options.pop("type")
    return options


class Entrant:
    """A head or a peer with its inputs; `step` is a forward and a backward pass."""

    def __init__(self, name, settings, shape, seed=0):
        rows, width, vocabulary, length = shape
        generator = torch.Generator().manual_seed(seed)
        zipf = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
        ids = torch.multinomial(zipf, rows + rows // length, replacement=True, generator=generator).view(-1, length + 1)
        self.tokens, self.targets = ids[:, :-1].contiguous(), ids[:, 1:].reshape(-1)
        self.hidden = torch.randn(rows, width, generator=generator).requires_grad_()
        self.layers, self.has_schedule = [], False
        if name in PEERS:
            self.module, self.options = PEERS[name](width, vocabulary), {}
            return
        from lmhead import heads

        counts = (zipf * 1e9).long() + 1
        self.module = heads.make(settings["type"], width, vocabulary, seed=seed, num_hidden_layers=LAYERS, token_counts=counts,
                                 **nested(settings))
        self.options = self.module.options
        self.layers = [torch.randn(rows, width, generator=generator).requires_grad_() for _ in self.module.needs.layers]
        self.has_schedule = any(isinstance(value, dict) and "until" in value for value in self.options.values())

    def step(self, share=0.5):
        self.module.zero_grad()
        for tensor in (self.hidden, *self.layers):
            tensor.grad = None
        if isinstance(self.module, (PlainMixture, TorchAdaptive)):
            loss = self.module(self.hidden, self.targets)
        else:
            loss = self.module.loss(self.hidden, self.targets, tokens=self.tokens, layers=self.layers,
                                    step=1 + round(share * 999), steps=1000)
        loss.backward()
        return loss

    def gradient_bytes(self):
        tensors = [*self.module.parameters(), self.hidden, *self.layers]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def board_heads():
    """The heads of the leaderboard's entries, by name."""
    found = {}
    for entry in json.loads(BOARD.read_text())["entries"]:
        settings = {key.removeprefix("head."): value for key, value in entry["set"].items() if key.startswith("head.")}
        if settings and len(settings) == len(entry["set"]):
            settings.setdefault("type", "linear")
            found[head_table.title(settings)] = settings
    return found


def entrants_of(arguments, shape_name):
    """Settings by name: every head with its defaults, those of the board at the studies' shape, and the peers."""
    from lmhead import heads

    named = {name: {"type": name} for name in heads.names()}
    if arguments.heads:
        chosen = {}
        for text in arguments.heads:
            settings = json.loads(text) if text.startswith("{") else named.get(text, {"type": text})
            chosen[text if text in PEERS else head_table.title(settings)] = settings
        return chosen
    return named | (board_heads() if shape_name == "study" else {}) | {name: {"type": name} for name in PEERS}


def print_memory(arguments):
    (name, settings), = json.loads(arguments.memory_of).items()
    shape = SHAPES[arguments.shape_of]
    Entrant(name, settings, (64, *shape[1:3], 16)).step()  # libraries' own buffers, and what is done once
    import lmhead

    lmhead.empty_cache()
    entrant = Entrant(name, settings, shape)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = status("VmRSS")
    entrant.step(share=0.0)
    print(max(0, status("VmHWM") - before - entrant.gradient_bytes()))


def extra_memory(name, settings, shape_name, threads):
    """In bytes, from a process of its own."""
    command = [sys.executable, __file__, "--memory-of", json.dumps({name: settings}), "--shape-of", shape_name, "--threads", str(threads)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_pairs(entrant, linear, rounds):
    """Seconds of `entrant` and of `linear`, round by round; with a schedule each is the mean over a run."""
    shares = SHARES_OF_A_RUN if entrant.has_schedule else [0.5]
    own, beside = [], []
    entrant.step(), linear.step()
    for _ in range(rounds):
        pairs = [(seconds_of(linear.step), seconds_of(lambda: entrant.step(share))) for share in shares]
        beside.append(statistics.mean(one for one, _ in pairs))
        own.append(statistics.mean(one for _, one in pairs))
    return own, beside


def training_step_seconds(shape, threads, model, steps=30):
    """Of the studies' model with a linear head, everything included."""
    rows, width, vocabulary, length = shape
    configuration = {
        "data": {"kind": "spamlang", "spamlang": {"vocab_size": vocabulary}, "batch_size": rows // length, "sequence_length": length, "validation_tokens": length},
        "model": model,
        "training": {"steps": steps, "threads": threads, "validate_every": 0, "checkpoint_every": 0},
    }
    with tempfile.TemporaryDirectory() as folder:
        file, run = pathlib.Path(folder) / "config.json", pathlib.Path(folder) / "run"
        file.write_text(json.dumps(configuration))
        done = subprocess.run([ROOT / ".venv/bin/lmhead", "train", file, "--run", run], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit("[bench] lmhead train must work, got: " + (done.stderr.strip().splitlines() or ["nothing"])[-1])
        return rows / json.loads((run / "summary.json").read_text())["tokens_per_second"]


def measure(shape_name, arguments):
    shape = SHAPES[shape_name]
    rows, width, vocabulary, _ = shape
    print(f"\n{shape_name}: N = {rows:,}, D = {width:,}, V = {vocabulary:,}, float32, {arguments.threads} threads")
    common = {"benchmark": "heads", "shape_name": shape_name, "shape": {"N": rows, "D": width, "V": vocabulary, "dtype": "float32"},
              "threads": arguments.threads}
    linear = Entrant("linear", {"type": "linear"}, shape)
    linear_memory = extra_memory("linear", {"type": "linear"}, shape_name, arguments.threads) if arguments.memory else None
    for name, settings in entrants_of(arguments, shape_name).items():
        try:
            entrant = Entrant(name, settings, shape)
        except ValueError as error:  # options that this shape is too small for
            print(f"  {name:40} {error}", flush=True)
            continue
        own, beside = time_pairs(entrant, linear, arguments.rounds)
        ratios = [a / b for a, b in zip(own, beside)]
        row = common | {"entrant": name, "settings": settings, "options": entrant.options}
        seconds = row | {"metric": "seconds", "unit": "s", "median": statistics.median(own), "quantiles": [min(own), max(own)], "rounds": len(own),
                         "linear": statistics.median(beside), "ratio_to_linear": statistics.median(ratios), "ratio_quantiles": [min(ratios), max(ratios)]}
        line = (f"  {name:40} {1e3 * seconds['median']:9.1f} ms   {seconds['ratio_to_linear']:5.2f} x linear  "
                f"[{min(ratios):.2f}, {max(ratios):.2f}]")
        found = [seconds]
        if arguments.memory:
            memory = extra_memory(name, settings, shape_name, arguments.threads)
            found.append(row | {"metric": "extra_memory", "unit": "bytes", "median": memory, "linear": linear_memory})
            line += f"   {memory / 2**20:8.1f} MiB" + (f" ({memory / linear_memory:.2f} x)" if linear_memory >= 2**20 else "")
        print(line, flush=True)
        result_rows.append(result_rows.file_of(arguments, "heads"), found)
    if arguments.training_step and shape_name == "study":
        model = {"hidden_size": width, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 256}
        times = [training_step_seconds(shape, arguments.threads, model) for _ in range(arguments.rounds)]
        print(f"  whole training step with linear          {1e3 * statistics.median(times):9.1f} ms", flush=True)
        whole = common | {"entrant": head_table.WHOLE_STEP, "model": model, "metric": "seconds", "unit": "s", "median": statistics.median(times),
                          "quantiles": [min(times), max(times)], "rounds": len(times)}
        result_rows.append(result_rows.file_of(arguments, "heads"), [whole])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["study", "sweep-32k"])
    parser.add_argument("--heads", nargs="+", metavar="NAME|JSON", help="these alone: names, or objects as under `head` in a configuration")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="as a run of a study has them (default: 1)")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--no-training-step", dest="training_step", action="store_false")
    parser.add_argument("--summary", action="store_true", help="print the newest rows of that file as a table, run nothing")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--shape-of", choices=SHAPES, help=argparse.SUPPRESS)
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.summary:
        print(head_table.summary(result_rows.file_of(arguments, "heads")))
        return
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_memory(arguments)
        return
    for shape_name in arguments.shapes:
        measure(shape_name, arguments)


if __name__ == "__main__":
    main()
