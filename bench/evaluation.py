#!/usr/bin/env python3
"""Times the scorer beside the backend `hf` of lm-evaluation-harness on the CPU, requests a second, and prints the table.

Both are asked through the harness's own functions, with texts, on one random model: multiple choice, whose choices share their questions, and
rolling log likelihoods of running text. The backend has the batch size that serves it best, found first. Before anything is timed their answers
must be the same: in float32 within 1e-4 nats and the rounding of the backend's float32 sums, with the same greedy flags; in bfloat16 ours may not lie
further from float32 than the backend's. Entrants take turns, the ratio is the median over rounds. Peak memory is that of a process that opens the model
and answers once; of that, `growth` is what answering took beyond what was resident before.
"""
import argparse
import contextlib
import importlib.util
import io
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import evaluation_table
import result_rows
from process_memory import status

ROOT = result_rows.ROOT
sys.path.insert(0, str(ROOT / "python"))
SHARED = ROOT.parent / "shared/data"
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
MOST_LOGITS = 2**30  # numbers in a batch of the backend's, of which it holds several copies


def instances(kind, arguments):
    """Requests as the harness makes them."""
    import evaluation_requests
    from lm_eval.api.instance import Instance

    if kind == "rolling":
        asked = [(text,) for text in evaluation_requests.texts(SHARED, arguments.texts, arguments.characters)]
    else:
        asked = [pair for pairs in evaluation_requests.questions(SHARED, arguments.questions).values() for pair in pairs]
    name = "loglikelihood_rolling" if kind == "rolling" else "loglikelihood"
    return [Instance(request_type=name, doc={}, arguments=one, idx=0) for one in asked]


def open_entrant(name, folder, dtype, arguments):
    if name == "lmhead":
        from lmhead.evaluate.harness import LmheadLM

        return LmheadLM(folder, max_length=arguments.max_length, dtype=dtype)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype=dtype, max_length=arguments.max_length, batch_size=1)


def answer(entrant, kind, requests, batch_size=1):
    """What the entrant says, as from the start: nothing is remembered from a call before."""
    if hasattr(entrant, "scorer"):
        from lmhead.evaluate.cache import AnswerCache

        entrant.cache = AnswerCache()
    else:
        entrant.batch_size_per_gpu = batch_size
    with contextlib.redirect_stderr(io.StringIO()):  # the backend shows a bar for every batch
        return told(entrant, kind, requests)


def told(entrant, kind, requests):
    if kind == "rolling":
        return [(value, None) for value in entrant.loglikelihood_rolling(requests, disable_tqdm=True)]
    return entrant.loglikelihood(requests, disable_tqdm=True)


def seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best_batch_size(entrant, kind, requests, arguments):
    """The fastest over a part of the requests; sizes go up until one is slower by a quarter than the best, or its logits would not fit."""
    if arguments.batch_size:
        return arguments.batch_size
    rows = arguments.max_length if kind == "rolling" else 1
    part = requests[: -(-len(requests) // 2)] if kind == "rolling" else requests[:: -(-len(requests) // 32)]
    found = {}
    answer(entrant, kind, part[:2])  # what is done once
    for size in BATCH_SIZES:
        if size > len(part) or size * rows * entrant.model.config.vocab_size > MOST_LOGITS:
            break
        found[size] = seconds_of(lambda: answer(entrant, kind, part, size))
        if found[size] > 1.25 * min(found.values()):
            break
    print("    batch sizes: " + ", ".join(f"{size}: {len(part) / seconds:.2f}/s" for size, seconds in found.items()), flush=True)
    return min(found, key=found.get)


def distance(ours, theirs):
    return max(abs(one[0] - other[0]) for one, other in zip(ours, theirs, strict=True))


def check_float32(ours, theirs, kind):
    """The largest difference; ends the benchmark where answers are not the same."""
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one[1] != other[1] or abs(one[0] - other[0]) > 1e-4 + 3e-7 * abs(other[0]):
            raise SystemExit(f"[bench] answers to {kind} must be the same in float32, got {one} and {other} at request {place}")
    return distance(ours, theirs)


def check_bfloat16(ours, theirs, exact, kind):
    own, beside = distance(ours, exact), distance(theirs, exact)
    if own > beside:
        raise SystemExit(f"[bench] bfloat16 answers to {kind} must lie no further from float32 than the backend's {beside:.3g} nats, got {own:.3g}")
    return own


def print_memory(arguments):
    name, folder, dtype, kind, batch_size = json.loads(arguments.memory_of)
    entrant = open_entrant(name, folder, dtype, arguments)
    requests = instances(kind, arguments)
    opened = status("VmRSS")
    answer(entrant, kind, requests, batch_size)
    peak = status("VmHWM")
    print(json.dumps({"peak": peak, "growth": peak - opened}))


def peak_memory(arguments, *what):
    """In bytes, from a process of its own."""
    command = [sys.executable, __file__, "--memory-of", json.dumps(what), "--threads", str(arguments.threads), "--questions", str(arguments.questions),
               "--texts", str(arguments.texts), "--characters", str(arguments.characters), "--max-length", str(arguments.max_length)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("[bench] the memory of a process must be measurable, got: " + (done.stderr.strip().splitlines() or ["nothing"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder, dtype, common, arguments, exact):
    """Both kinds of requests in one type; `exact` gets the backend's float32 answers, for bfloat16 to be held against."""
    entrants = {name: open_entrant(name, folder, dtype, arguments) for name in ("lmhead", "hf")}
    for kind in ("multiple choice", "rolling"):
        requests = instances(kind, arguments)
        print(f"  {dtype}, {kind}, {len(requests)} requests", flush=True)
        batch_size = best_batch_size(entrants["hf"], kind, requests, arguments)
        answers = {name: answer(entrant, kind, requests, batch_size) for name, entrant in entrants.items()}
        if dtype == "float32":
            error = check_float32(answers["lmhead"], answers["hf"], kind)
            exact[kind] = answers["hf"]
        else:
            error = check_bfloat16(answers["lmhead"], answers["hf"], exact[kind], kind)
        rounds = [{name: seconds_of(lambda: answer(entrant, kind, requests, batch_size)) for name, entrant in entrants.items()}
                  for _ in range(arguments.rounds)]
        ratios = [one["hf"] / one["lmhead"] for one in rounds]
        row = common | {"dtype": dtype, "kind": kind, "requests": len(requests), "batch_size": batch_size, "worst_difference": error,
                        "rounds": arguments.rounds, "unit": "requests/s", "ratio": statistics.median(ratios), "ratio_quantiles": [min(ratios), max(ratios)]}
        for name in entrants:
            row[name] = len(requests) / statistics.median(one[name] for one in rounds)
        if arguments.memory:
            row["memory"] = {name: peak_memory(arguments, name, str(folder), dtype, kind, batch_size) for name in entrants}
        print("    " + evaluation_table.line(row), flush=True)
        result_rows.append(result_rows.file_of(arguments, "evaluation"), [row])


def measure_memory(folder, dtype, common, arguments):
    """Of both kinds of requests in one type: rows with memory alone, which other processes do not disturb."""
    timed = {(row["shape_name"], row["kind"], row["dtype"]): row["batch_size"] for row in evaluation_table.newest(result_rows.file_of(arguments, "evaluation"))}
    for kind in ("multiple choice", "rolling"):
        batch_size = arguments.batch_size or timed.get((arguments.shape, kind, dtype))
        if not batch_size:
            raise SystemExit(f"[bench] {kind} in {dtype} must have been timed, or --batch-size given, got neither")
        memory = {name: peak_memory(arguments, name, str(folder), dtype, kind, batch_size) for name in ("lmhead", "hf")}
        row = common | {"dtype": dtype, "kind": kind, "batch_size": batch_size, "memory": memory}
        print(f"  {dtype}, {kind}: " + "peak {} against {}: {}".format(*evaluation_table.memory(row, "peak")), flush=True)
        result_rows.append(result_rows.file_of(arguments, "evaluation"), [row])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=["smollm2-135m", "tiny"], default="smollm2-135m")
    parser.add_argument("--no-bfloat16", dest="bfloat16", action="store_false")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=6, help="of each set (default: 6)")
    parser.add_argument("--texts", type=int, default=4, help="for rolling log likelihoods (default: 4)")
    parser.add_argument("--characters", type=int, default=2500, help="of each text (default: 2500)")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, help="of the backend, in place of the best")
    parser.add_argument("--threads", type=int, default=result_rows.torch.get_num_threads())
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--memory-only", action="store_true", help="time nothing; the batch sizes are those of the newest timing, or --batch-size")
    parser.add_argument("--summary", action="store_true", help="print the newest rows of that file as a table, run nothing")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.summary:
        print(evaluation_table.summary(result_rows.file_of(arguments, "evaluation")))
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise SystemExit("[bench] lm-eval must be installed, got none: make bench-evaluate EXTRAS=evaluate")
    result_rows.torch.set_num_threads(arguments.threads)
    from lmhead.evaluate.run import quiet_harness

    quiet_harness()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if arguments.memory_of:
        print_memory(arguments)
        return
    import evaluation_requests

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "model"
        tokenizer = evaluation_requests.make_model(folder, arguments.shape, SHARED)
        sets = list(evaluation_requests.questions(SHARED, 1))
        print(f"{arguments.shape}, {arguments.threads} threads; tokenizer {tokenizer}; questions of {', '.join(sets)}")
        common = {"benchmark": "evaluation", "shape_name": arguments.shape, "shape": evaluation_requests.SHAPES[arguments.shape],
                  "threads": arguments.threads, "max_length": arguments.max_length, "tokenizer": tokenizer, "sets": sets}
        exact = {}
        for dtype in ("float32", "bfloat16") if arguments.bfloat16 else ("float32",):
            if arguments.memory_only:
                measure_memory(folder, dtype, common, arguments)
            else:
                measure(folder, dtype, common, arguments, exact)


if __name__ == "__main__":
    main()
