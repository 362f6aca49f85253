"""Trains, exports and studies that are killed at random moments and started again, beside ones that nobody disturbed.

A trial is told by one number: of what kind it is, how often and when it kills. Whatever it did, the last start must end with
code 0 in the bits of the undisturbed one, with nothing beside them.
"""

from __future__ import annotations

import array
import dataclasses
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lmhead.verbs import write_programs

LMHEAD = Path(__file__).resolve().parents[2] / "build" / "release" / "bin" / "lmhead"
# What clocks and the process say, and what follows from it: the log's bytes hold times.
CLOCKS = {"tokens_per_second", "wall_seconds", "equal_wall_seconds", "measure_seconds", "log_bytes", "log_hash", "peak_memory_bytes", "started", "finished"}
STEPS = 60
IN_USE = "[study] study must not be in use, got another process that conducts a study in it\n"


def write_inputs(folder: Path) -> None:
    """A run of a second: sixty steps of a millisecond, a checkpoint every three and at every best validation; and a study."""
    draw = random.Random(0)
    for split, count in (("train", 6000), ("val", 600)):
        ids = [1]
        while len(ids) < count:
            ids.append(draw.randrange(64) if draw.random() < 0.2 else (ids[-1] * 5 + 3) % 64)
        (folder / f"{split}.bin").write_bytes(array.array("H", ids).tobytes())
    run = {
        "data": {"path": str(folder), "sequence_length": 16, "batch_size": 4, "validation_tokens": 128},
        "model": {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "optimizer": {"learning_rate": 0.01},
        "observe": {"gradient_retention": {"every": 9}},
        "training": {"steps": STEPS, "threads": 1, "validate_every": 5, "checkpoint_every": 3},
    }
    (folder / "config.json").write_text(json.dumps(run))
    arms = [{"name": "full"}, {"name": "rank 2", "set": {"head.type": "low_rank", "head.rank": 2}}]
    study = {"name": "killed", "base": run, "arms": arms, "seeds": [0, 1], "comparisons": [{"baseline": "full"}]}
    (folder / "study.json").write_text(json.dumps(study))


def write_finished_run(folder: Path) -> None:
    """The inputs, a finished run of three steps, and in `bin` every Python verb's program."""
    write_inputs(folder)
    (folder / "bin").mkdir()
    write_programs(folder / "bin")
    configuration = json.loads((folder / "config.json").read_text())
    configuration["training"]["steps"] = 3
    (folder / "config.json").write_text(json.dumps(configuration))
    done = subprocess.run([LMHEAD, "train", "config.json", "--run", "run"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr


def environment_of(folder: Path) -> dict[str, str]:
    """This process's, in which those programs are found first."""
    return os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def without_clocks(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if key not in CLOCKS}
    if isinstance(value, list):
        return [without_clocks(item) for item in value]
    return value


def lines_of(path: Path) -> list[object]:
    return [without_clocks(json.loads(line)) for line in path.read_text().splitlines()]


def content_of(folder: Path) -> dict[str, object]:
    """Everything that is there by its name: bytes, or what JSON says apart from clocks."""
    content: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            content[name] = "a folder"
        elif path.name == "log.jsonl":
            content[name] = lines_of(path)
        elif path.suffix == ".jsonl":  # of a study: several runs at once end in any order
            content[name] = sorted(lines_of(path), key=json.dumps)
            if path.name == "results.jsonl":
                content[name] = [line for line in content[name] if line.get("metric") not in CLOCKS]
        elif path.name in ("summary.json", "state.json", "statistics.json"):
            content[name] = without_clocks(json.loads(path.read_text()))
        elif path.name == "checksums":  # state.json holds times; the hashes themselves were checked on resuming
            content[name] = [line for line in path.read_text().splitlines() if not line.endswith("state.json")]
        else:
            content[name] = path.read_bytes()
    return content


@dataclasses.dataclass
class Job:
    """Something that is started again and again until it is done; `command` writes into the folder `target`."""

    command: list[str]
    target: Path
    again: str | None = None  # what a further start prints, and nothing more

    def start(self) -> subprocess.Popen:
        return subprocess.Popen([LMHEAD, *self.command], cwd=self.target.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=dict(os.environ, OMP_NUM_THREADS="1"), start_new_session=True)

    def finish(self) -> None:
        """Children of a killed study that still save keep the next one out; everything else is a fault."""
        deadline = time.monotonic() + 120
        while True:
            process = self.start()
            output, errors = process.communicate(timeout=120)
            if process.returncode == 2 and errors == IN_USE and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            assert process.returncode == 0, f"{output}{errors}"
            break
        if self.again is not None:
            process = self.start()
            assert (*process.communicate(timeout=120), process.returncode) == (self.again, "", 0)


def train_job(run: Path) -> Job:
    return Job(["train", "config.json", "--run", run.name], run, again=f"{run.name} is finished already\n")


def wait_until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and not condition() and time.monotonic() < deadline:
        time.sleep(0.0003)


def is_being_written(folder: Path) -> bool:
    """Whether something has its temporary name: a checkpoint, an export."""
    try:
        return any(".tmp" in entry.name for entry in os.scandir(folder))
    except FileNotFoundError:
        return False


class Trials:
    """The undisturbed ones, and what they take."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.kills = 0
        write_inputs(folder)
        self.jobs = {
            "train": train_job(folder / "whole"),
            "export": Job(["export", "whole", "exported"], folder / "exported"),
            "study": Job(["study", "study.json", "--out", "study", "--jobs", "2"], folder / "study"),
        }
        self.expected, self.seconds = {}, {}
        for kind, job in self.jobs.items():
            began = time.monotonic()
            job.finish()
            self.seconds[kind] = (time.monotonic() - began) / (1 if job.again is None else 2)
            self.expected[kind] = content_of(job.target)
        (folder / "study").rename(folder / "whole-study")
        (folder / "exported").rename(folder / "whole-export")
        self.names = set(os.listdir(folder))

    def trial(self, seed: int) -> None:
        """Most trials are of training; where those are rare, the moments that matter most are waited for."""
        draw = random.Random(seed)
        kind = draw.choices(["anywhere", "checkpoint", "last", "export", "study"], [40, 20, 10, 15, 15])[0]
        try:
            getattr(self, f"kill_{kind}")(draw)
        except AssertionError as error:
            raise AssertionError(f"trial {seed}, {kind}: {error}") from None

    def kill(self, process: subprocess.Popen, whole_group: bool = True) -> None:
        try:
            (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()
        self.kills += process.returncode == -signal.SIGKILL

    def check(self, kind: str, job: Job) -> None:
        job.finish()
        found, expected = content_of(job.target), self.expected[kind]
        assert found.keys() == expected.keys(), f"{sorted(found.keys() ^ expected.keys())} too many or missing"
        for name, content in expected.items():
            assert found[name] == content, f"{name} differs"
        for path in sorted(job.target.rglob("*"), reverse=True):  # the next trial finds nothing of this one
            path.rmdir() if path.is_dir() else path.unlink()
        job.target.rmdir()
        assert set(os.listdir(self.folder)) == self.names, f"{set(os.listdir(self.folder)) - self.names} left over"

    def kill_anywhere(self, draw: random.Random) -> None:
        job = train_job(self.folder / "killed")
        for _ in range(draw.randint(1, 3)):
            process = job.start()
            time.sleep(draw.uniform(0, self.seconds["train"]))
            self.kill(process)
        self.check("train", job)

    def kill_checkpoint(self, draw: random.Random) -> None:
        """While the n-th checkpoint after the start is written."""
        job = train_job(self.folder / "killed")
        for _ in range(draw.randint(1, 3)):
            process = job.start()
            for _ in range(draw.randint(1, 8)):
                wait_until(process, lambda: is_being_written(job.target / "checkpoints"))
                wait_until(process, lambda: not is_being_written(job.target / "checkpoints"))
            wait_until(process, lambda: is_being_written(job.target / "checkpoints"))
            time.sleep(draw.uniform(0, 0.004))
            self.kill(process)
        self.check("train", job)

    def kill_last(self, draw: random.Random) -> None:
        """Between the last checkpoint and the end."""
        job = train_job(self.folder / "killed")
        process = job.start()
        wait_until(process, (job.target / "checkpoints" / f"step-{STEPS:08d}").exists)
        time.sleep(draw.choice([0, draw.uniform(0, 0.02)]))
        self.kill(process)
        self.check("train", job)

    def kill_export(self, draw: random.Random) -> None:
        """With an earlier export there, or none; what is under its name is whole at any moment."""
        job = self.jobs["export"]
        if draw.random() < 0.5:
            job.finish()
        for _ in range(draw.randint(1, 3)):
            process = job.start()
            if draw.random() < 0.7:
                wait_until(process, lambda: any(path.name.startswith("exported.") for path in self.folder.iterdir()))
                time.sleep(draw.uniform(0, 0.004))
            else:
                time.sleep(draw.uniform(0, self.seconds["export"]))
            self.kill(process)
            assert not job.target.exists() or content_of(job.target) == self.expected["export"], "half an export"
        self.check("export", job)

    def kill_study(self, draw: random.Random) -> None:
        """With its runs, as a machine that goes down does, or without them."""
        job = self.jobs["study"]
        for _ in range(draw.randint(1, 3)):
            process = job.start()
            time.sleep(draw.uniform(0, self.seconds["study"]))
            self.kill(process, whole_group=draw.random() < 0.5)
        self.check("study", job)
