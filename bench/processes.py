#!/usr/bin/env python3
"""What two processes gain and what sharing out saves, on one machine.

Speed: the reference model (bench/training_step.py) in one process of two threads and in two of one thread, in turn; the same batch, and so the same losses to rounding.
Head: a step of training a head of V = 131,072 and D = 256 by itself in two processes, loss, backward pass, exchange and AdamW, whole in each of them
(linear_cross_entropy and an all-reduce) and in rows (vocabulary_parallel_cross_entropy): its time, and what a process takes beside the program.
Run: a model of that head with `parallel.vocabulary` off and on, in turn: its time, and what a process takes at most, the program among it.
"""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import process_memory
import result_rows
import training_step

ROOT = result_rows.ROOT
VOCAB, WIDTH, TOKENS = 131072, 256, 2048  # tokens of both processes together
SIZE = 2


def together(command: list, size: int, threads: int, folder: pathlib.Path) -> None:
    """One process a rank, as torchrun starts them."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    started = []
    for rank in range(size):
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
            "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "PYTHONPATH": str(ROOT / "python"),
        }
        started.append(subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"[bench] every process must end well, got: {errors}")


def train(configuration: dict, folder: pathlib.Path, size: int, threads: int) -> tuple[list[dict], dict]:
    """Log and summary."""
    run = pathlib.Path(tempfile.mkdtemp(dir=folder))
    configuration["training"]["threads"] = threads
    (run / "bench.json").write_text(json.dumps(configuration))
    together(["-m", "lmhead", "train", run / "bench.json", "--run-folder", run / "run"], size, threads, folder)
    log = [json.loads(line) for line in (run / "run/log.jsonl").read_text().splitlines()]
    return log, json.loads((run / "run/summary.json").read_text())


def head_in_a_process(kind: str, steps: int, file: pathlib.Path) -> None:
    """The first process writes the seconds of every step, and what memory was taken beyond the program."""
    sys.path.insert(0, str(ROOT / "python"))
    import torch
    import torch.distributed as dist

    from lmhead import linear_cross_entropy, vocabulary_parallel_cross_entropy

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(rank)
    hidden = torch.randn(TOKENS // SIZE, WIDTH, generator=generator)
    target = torch.randint(VOCAB, (TOKENS // SIZE,), generator=generator)
    dist.all_reduce(torch.ones(1))
    program = process_memory.status("VmRSS")
    rows = VOCAB if kind == "whole" else VOCAB // SIZE
    weight = torch.nn.Parameter(torch.empty(rows, WIDTH).normal_(0, 0.02))
    optimizer = torch.optim.AdamW([weight], fused=True)
    seconds = []
    for _ in range(steps):
        dist.barrier()
        start = time.perf_counter()
        optimizer.zero_grad()
        features = hidden.clone().requires_grad_()
        if kind == "whole":
            loss = linear_cross_entropy(features, weight, target)
            (loss / SIZE).backward()
            dist.all_reduce(weight.grad)
        else:
            vocabulary_parallel_cross_entropy(features, weight, target, hidden_layout="sharded").backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        file.write_text(json.dumps({"seconds": seconds, "bytes": process_memory.status("VmHWM") - program}))
    dist.destroy_process_group()


def median_of(rounds: list[float]) -> dict:
    return {"median": statistics.median(rounds), "quantiles": [min(rounds), max(rounds)], "rounds": len(rounds)}


def measure_speed(folder: pathlib.Path, rounds: int, steps: int) -> list[dict]:
    inputs = training_step.make_inputs(folder)
    tokens = training_step.SEQUENCES * training_step.SHAPE["length"]
    speeds: dict[str, list[float]] = {"one process of two threads": [], "two processes of one thread": []}
    waiting, losses = [], {}
    for _ in range(rounds):
        for entrant, size, threads in (("one process of two threads", 1, 2), ("two processes of one thread", 2, 1)):
            log, _ = train(training_step.configuration_of(inputs, "float32", steps), folder, size, threads)
            timed = log[training_step.SKIPPED_STEPS :]
            speeds[entrant].append(statistics.median(line["tokens_per_second"] for line in timed))
            losses[entrant] = [line["loss"] for line in log]
            if size > 1:
                waiting.append(statistics.median(line["exchange_seconds"] * line["tokens_per_second"] / tokens for line in timed))
    worst = max(abs(a - b) for a, b in zip(*losses.values()))
    print(f"largest difference of losses {worst:.1e}")
    if worst > 1e-4:
        raise SystemExit("[bench] losses must agree within 1e-4; nothing was timed")
    one, two = speeds.values()
    for entrant, values in speeds.items():
        print(f"  {entrant:28} {statistics.median(values):8.0f} tokens/s (rounds {min(values):.0f} to {max(values):.0f})")
    print(f"  two / one {statistics.median(b / a for a, b in zip(one, two)):.2f}, {100 * statistics.median(waiting):.1f} % of a step sent or waited")
    shape = training_step.SHAPE | {"sequences": training_step.SEQUENCES, "precision": "float32"}
    rows = [{"kernel": "processes", "entrant": entrant, "metric": "tokens_per_second", "unit": "tokens/s", "shape": shape, **median_of(values)} for entrant, values in speeds.items()]
    return [*rows, {"kernel": "processes", "entrant": "two processes of one thread", "metric": "share_of_exchange", "unit": "", "shape": shape, **median_of(waiting)}]


def measure_head(folder: pathlib.Path, rounds: int, steps: int) -> list[dict]:
    found: dict[str, list[dict]] = {"whole": [], "rows": []}
    for _ in range(rounds):
        for kind, results in found.items():
            file = folder / f"{kind}.json"
            together([pathlib.Path(__file__).resolve(), "--head", kind, "--steps", steps, "--to", file], SIZE, 1, folder)
            results.append(json.loads(file.read_text()))
    rows, medians = [], {}
    for kind, results in found.items():
        seconds = [statistics.median(result["seconds"][2:]) for result in results]
        sizes = [float(result["bytes"]) for result in results]
        medians[kind] = (statistics.median(seconds), statistics.median(sizes))
        print(f"  head {kind:6} {medians[kind][0]:.3f} s a step, {medians[kind][1] / 2**20:.0f} MiB beside the program")
        shape = {"vocab": VOCAB, "width": WIDTH, "tokens": TOKENS, "processes": SIZE}
        rows += [{"kernel": "processes", "entrant": f"head, {kind}", "metric": metric, "unit": unit, "shape": shape, **median_of(values)}
                 for metric, unit, values in (("seconds", "s", seconds), ("bytes", "bytes", sizes))]  # fmt: skip
    print(f"  rows / whole: time {medians['rows'][0] / medians['whole'][0]:.2f}, memory {medians['rows'][1] / medians['whole'][1]:.2f}")
    return rows


def measure_run(folder: pathlib.Path, rounds: int, steps: int) -> list[dict]:
    data = {"kind": "spamlang", "spamlang": {"vocab_size": VOCAB}, "sequence_length": 64, "batch_size": TOKENS // 64, "validation_tokens": 64}
    found: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
    losses = {}
    for _ in range(rounds):
        for vocabulary, results in found.items():
            configuration = {
                "data": data, "model": {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}, "parallel": {"vocabulary": vocabulary},
                "training": {"steps": steps, "validate_every": 0, "checkpoint_every": 0},
            }
            log, summary = train(configuration, folder, SIZE, 1)
            losses[vocabulary] = [line["loss"] for line in log]
            results.append((statistics.median(TOKENS / line["tokens_per_second"] for line in log[2:]), float(summary["peak_memory_bytes"])))
    worst = max(abs(a - b) for a, b in zip(*losses.values()))
    if worst > 1e-4:
        raise SystemExit(f"[bench] losses must agree within 1e-4, got {worst:.1e}; nothing is told")
    rows = []
    for vocabulary, results in found.items():
        seconds, sizes = zip(*results)
        print(f"  run, parallel.vocabulary={vocabulary:3} {statistics.median(seconds):.2f} s a step, {statistics.median(sizes) / 2**20:.0f} MiB at most, the program among it")
        shape = {"vocab": VOCAB, "width": WIDTH, "layers": 2, "tokens": TOKENS, "processes": SIZE}
        rows += [{"kernel": "processes", "entrant": f"run, vocabulary {vocabulary}", "metric": metric, "unit": unit, "shape": shape, **median_of(list(values))}
                 for metric, unit, values in (("seconds", "s", seconds), ("bytes", "bytes", sizes))]  # fmt: skip
    time_ratio, memory_ratio = (statistics.median(on[which] / off[which] for off, on in zip(*found.values())) for which in (0, 1))
    print(f"  on / off: time {time_ratio:.2f}, memory {memory_ratio:.2f}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--parts", nargs="+", choices=["speed", "head", "run"], default=["speed", "head", "run"])
    parser.add_argument("--head", help=argparse.SUPPRESS)  # of a process that this starts
    parser.add_argument("--to", type=pathlib.Path, help=argparse.SUPPRESS)
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.head:
        head_in_a_process(arguments.head, arguments.steps, arguments.to)
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if "speed" in arguments.parts:
            rows += measure_speed(folder, arguments.rounds, arguments.steps)
        if "head" in arguments.parts:
            rows += measure_head(folder, arguments.rounds, 6)
        if "run" in arguments.parts:
            rows += measure_run(folder, arguments.rounds, 6)
    result_rows.append(result_rows.file_of(arguments, "processes"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
