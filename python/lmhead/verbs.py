"""The verbs that are Python. CMake and scripts/setup read this list; pyproject.toml repeats it, and a test compares.

    python -m lmhead.verbs FOLDER    writes the program lmhead-VERB of each into a folder
"""

import sys
from pathlib import Path

VERBS = {  # module, and what the verb does; CMake reads the lines, so one has both
    "prepare": ("prepare.command", "make a dataset of token ids from text"),
    "report": ("report.command", "write the report of a run or study as one HTML file"),
    "study-document": ("study.command", "write what came of a study as Markdown with plots"),
    "leaderboard": ("leaderboard.command", "compare heads, rules and optimisers under one protocol"),
    "tensorboard": ("tensorboard", "convert the logs of a run or study for TensorBoard"),
    "log": ("loggers", "give the log of a run or study to TensorBoard, Weights & Biases or trackio"),
    "evaluate": ("evaluate.command", "score models on the tasks of lm-evaluation-harness"),
    "doctor": ("doctor", "print versions, processor, devices and what is missing, to paste into a report"),
    "fetch": ("hub", "fetch a model of the hub, and print its folder"),
    "features": ("features", "compute features with transformers for lmhead measure"),
    "tokenize": ("prepare.tokenize", "turn text into token ids for lmhead measure"),
    "measurement-report": ("measurement.command", "write the figures of lmhead measure as one HTML file"),
    "ray": ("study.ray_workers", "carry the runs of a study out on a Ray cluster for lmhead study --ray"),
    "tokenizer": ("prepare.tokenizer", "encode and decode text for lmhead sample"),
}

END_WITH_INPUT = ("ray", "tokenizer")  # started by native verbs that hear signals for them

# An interpreter takes longer to find its packages than to start; -S leaves that to the program, which can be interrupted
# before. What comes earlier still is held back by `lmhead`, where that started it.
PROGRAM = '''#!{python} -S
import _signal
import posix


def leave(number, frame):
    try:
        posix.write(2, b"[{verb}] stopped\\n")
    finally:
        posix._exit(130)


for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
    if _signal.getsignal(number) != _signal.SIG_IGN:
        _signal.signal(number, leave)

import site

site.main()
import sys

from lmhead.__main__ import main

sys.exit(main(["{verb}", *sys.argv[1:]]))
'''


def write_programs(folder: Path) -> None:
    for verb in VERBS:
        program = folder / f"lmhead-{verb}"
        program.write_text(PROGRAM.format(python=sys.executable, verb=verb))
        program.chmod(0o755)


if __name__ == "__main__":
    write_programs(Path(sys.argv[1]))
