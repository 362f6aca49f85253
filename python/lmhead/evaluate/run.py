"""Runs the harness's tasks on a model, and keeps what every document gave."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import os
import random
from pathlib import Path
from typing import Any

from lmhead.command import RequestError
from lmhead.evaluate.task_data import check_examples, offline


def quiet_harness() -> None:
    """The harness says much that is not for our users; what goes wrong still comes as an exception."""
    os.environ.setdefault("LOGLEVEL", "ERROR")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in ("lm_eval", "transformers", "datasets", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


@functools.cache
def task_manager() -> Any:
    """The harness's index of tasks; making it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def load_tasks(names: list[str], *, num_fewshot: int | None = None, data: Path | None = None, seed: int = 1234) -> Any:
    """The harness's tasks and groups of these names, with their data: the hub's, or the local copies in `data`.

    Raises RequestError on a name that is none, and where local copies lack what a task needs.
    """
    manager = task_manager()
    for name in names:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            raise RequestError(f"a task must be one that `lm-eval ls tasks` lists, got {name!r}"
                               + (f", did you mean {near[0]}?" if near else ""))
    try:
        with offline(data) if data else contextlib.nullcontext():
            loaded = manager.load(names)
    except RequestError:
        raise
    except Exception as error:  # of many kinds: the hub, its sets, the harness's own code for them
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"the data of {', '.join(names)} must be there to be read, got {type(error).__name__}: {reason}"
                           + ("" if data else "; --offline takes local copies")) from None
    for task in loaded["tasks"].values():  # as the harness's own command does
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config("num_fewshot", num_fewshot or 0)
        task.set_fewshot_seed(seed=seed)
        check_examples(task)
    return loaded


def evaluate(lm: Any, tasks: Any, *, limit: int | None = None, seed: int = 1234) -> dict[str, Any]:
    """What the harness says of a model on loaded tasks, with every document's requests and answers under `samples`."""
    import lm_eval
    import numpy

    random.seed(seed)
    numpy.random.seed(seed)
    # Our intervals are over documents, the same for every figure.
    return lm_eval.evaluate(lm=lm, task_dict=tasks, limit=limit, bootstrap_iters=0, log_samples=True)
