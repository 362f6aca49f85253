"""examples/vocabulary_parallel.py as a user starts it."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("processes", [2, 3])
def test_the_example_says_that_both_losses_are_one(processes):
    sizes = ["--vocab-size", "16385", "--hidden-size", "64", "--tokens", "512"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run([*command, ROOT / "examples/vocabulary_parallel.py", *sizes], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    memory = dict(re.findall(r"^(\w+) +loss .* ([\d.]+) MiB more$", done.stdout, re.M))
    assert float(memory["lmhead"]) < 0.75 * float(memory["loss_parallel"])
    for error, size in re.findall(r"differ by (\S+), of (\S+)$", done.stdout, re.M):
        assert float(error) <= 1e-5 * float(size)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("under fully_shard", "in one process"))]
    sharded, whole = ([float(loss) for loss in re.findall(r"\d+\.\d{5}", line)] for line in lines)
    assert len(sharded) == 8 and sharded == pytest.approx(whole, abs=2e-5)
