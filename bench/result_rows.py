"""Rows of measurements: what was measured, and on what, one JSON object a line."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the choice of where rows go: by default not among what is committed."""
    parser.add_argument("--record", action="store_true",
                        help="rows go to bench/results, which is committed, in place of runs/bench")
    parser.add_argument("--out", type=pathlib.Path, help="file that rows go to, in place of either")


def file_of(arguments: argparse.Namespace, name: str) -> pathlib.Path:
    """Where the rows of benchmark `name` go."""
    return arguments.out or ROOT / ("bench/results" if arguments.record else "runs/bench") / f"{name}.jsonl"


def append(file: pathlib.Path, rows: list[dict]) -> None:
    """Adds machine, versions, date and commit to every row and appends them."""
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    common = {
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "commit": commit,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.writelines(json.dumps(row | common) + "\n" for row in rows)
