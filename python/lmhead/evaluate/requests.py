"""Tasks as ids, so that a run can be asked while it trains without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmhead.command import RequestError
from lmhead.evaluate.figures import gold_choice
from lmhead.evaluate.harness import HarnessTokens
from lmhead.evaluate.run import evaluate
from lmhead.evaluate.tokenizer import open_tokenizer
from lmhead.sidecar import read_sidecar

Ids = list[list[int]]  # those of a context, those of its continuation


class RequestRecorder(HarnessTokens):
    """Answers nothing, and keeps the ids of every context and continuation that it is asked about."""

    max_length = 1 << 30

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.asked: dict[tuple[str, str], Ids] = {}

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        for strings, context, continuation in requests:
            if not context or not continuation:
                raise RequestError(f"a continuation must add a token to its context, got {strings!r} whose tokens merge")
            self.asked[strings] = [context, continuation]
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise RequestError("a task while training must ask about continuations, got one of whole texts")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        raise RequestError("a task while training must ask about continuations, got one that generates")


def record(dataset: Path, tasks: Any, *, limit: int | None, seed: int) -> dict[str, Any]:
    """What `observe.downstream.requests` reads: the tasks in the ids of the dataset's tokenizer."""
    sidecar = read_sidecar(dataset)
    is_bytes = sidecar["tokenizer"] is None
    tokenizer = open_tokenizer({
        "is_bytes": is_bytes,
        "kind": "checkpoint",
        "tokenizer": None if is_bytes else str(dataset / sidecar["tokenizer"]),
        "end_of_document": sidecar["end_of_document"],
    }, dataset)
    recorder = RequestRecorder(tokenizer)
    samples = evaluate(recorder, tasks, limit=limit, seed=seed)["samples"]
    return {
        "format": "lmhead-requests",
        "version": 1,
        "tokenizer_hash": sidecar["tokenizer_hash"],
        "limit": limit,
        "tasks": [
            {"name": name, "documents": [document(tasks["tasks"][name], sample, recorder.asked) for sample in samples[name]]}
            for name in sorted(samples)
        ],
    }


def document(task: Any, sample: dict[str, Any], asked: dict[tuple[str, str], Ids]) -> dict[str, Any]:
    gold = gold_choice(task, sample)
    requests = [tuple(arguments) for arguments in sample["arguments"]]
    choices: list[str] = []
    if task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input:
        choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
        requests = requests[: len(choices)]  # others ask for a choice without its question
    return {
        "requests": [asked[request] for request in requests],
        "gold": gold,
        "characters": [len(choice) for choice in choices],
        "gold_bytes": 0 if gold is None else len(requests[gold][1].encode("utf-8")),
    }
