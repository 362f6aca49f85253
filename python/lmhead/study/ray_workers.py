"""Carries the runs of a study out on a Ray cluster, for `lmhead study --ray`; lmhead/run/program_workers.h has the protocol.

Every node needs Python, Ray and the same `lmhead`. What Ray itself says goes to ray.log in the study's folder. Where nodes share the study's folder a run is trained there, and goes on from its checkpoint
when its node is lost; elsewhere it is trained in a folder of the node's own, begins again, and its files come back at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from lmhead.command import RequestError, load
from lmhead.files import replace_folder
from lmhead.formats import one_line

STEP_SECONDS = 0.5  # between two looks at how far a run is
LOCK_SECONDS = 120.0  # that a run of a lost node may take to let go of its folder
ENDS = {0: "finished", 130: "stopped", 1: "diverged"}
LOCKED = "must not be in use"
RESTARTS = 20  # of a run whose node is lost
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """A run saves and ends where Ray ends the process that watches it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def find_lmhead(folder: str) -> tuple[str, str]:
    """The program in `folder`, beside this interpreter or on the path, and what it says of its version."""
    program = shutil.which("lmhead", path=os.pathsep.join([folder, os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if program is None:
        return "", "no program `lmhead`"
    return program, subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip()


class Run:
    """A run on a node of the cluster; its methods are called from several threads."""

    def __init__(self, configuration: dict[str, Any], folder: str, mark: str, directory: str, threads: int, programs: str, version: str):
        self.configuration, self.threads, self.directory = configuration, threads, directory
        self.programs, self.version = programs, version
        self.shared = Path(mark).exists()
        self.folder = Path(folder) if self.shared else Path(tempfile.mkdtemp(prefix="lmhead-run-")) / Path(folder).name
        self.process: subprocess.Popen[str] | None = None
        self.stopping = False

    def carry_out(self) -> dict[str, Any]:
        """How it ended, in one line why, and where the folder is not shared its files."""
        program, there = find_lmhead(self.programs)
        if there != self.version:
            return {"end": "failed", "error": f"[study] every node must have {self.version}, got {there} on {os.uname().nodename}"}
        given_up = time.monotonic() + LOCK_SECONDS
        while True:
            code, said = self.train(program)
            if code != 2 or LOCKED not in said or time.monotonic() > given_up:
                break
            time.sleep(1)
        end = ENDS.get(code, "failed")
        if self.stopping and code == -signal.SIGTERM:  # it came before the program could hear it
            end = "stopped"
        answer: dict[str, Any] = {"end": end}
        if end in ("diverged", "failed"):
            answer["error"] = said or f"[study] a run must end by itself, got exit code {code} on {os.uname().nodename}"
        if not self.shared:
            answer["files"] = small_files(self.folder)
            shutil.rmtree(self.folder.parent, ignore_errors=True)
        return answer

    def train(self, program: str) -> tuple[int, str]:
        """The exit code, and the last line that was said."""
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "config.json"
            file.write_text(json.dumps(self.configuration))
            directory = self.directory if os.path.isdir(self.directory) else None
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            # Errors go to a file: nobody need read them while it runs.
            with open(Path(scratch) / "errors", "w+", encoding="utf-8", errors="replace") as errors:
                self.process = subprocess.Popen([program, "train", str(file), "--run", str(self.folder)], cwd=directory, env=environment, text=True,
                                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, preexec_fn=end_with_parent)
                if self.stopping:
                    self.stop()
                code = self.process.wait()
                errors.seek(0)
                lines = errors.read().split("\n")
        return code, next((line for line in reversed(lines) if line.strip()), "")

    def step(self) -> int:
        """The last that its log has."""
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError), open(self.folder / "log.jsonl", "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - (1 << 16)))
            return int(json.loads(log.read().rsplit(b"\n", 2)[-2])["step"])
        return 0

    def stop(self) -> None:
        self.stopping = True
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)


def small_files(folder: Path) -> dict[str, bytes]:
    """What a row is made of: everything but checkpoints."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "checkpoints" not in path.relative_to(folder).parts}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """In one step: the folder is there with all of them, or as it was."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        replace_folder(fresh, folder, Path(scratch))


def knock(address: str) -> None:
    """OSError where nothing listens, which Ray would find out in minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


class Cluster:
    """The runs that were handed over and have not ended."""

    def __init__(self, address: str, folder: str):
        self.ray = load("ray", "ray")
        self.ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # nodes need not import this package
        try:
            knock(address)
            self.ray.init(address=address, log_to_driver=False, logging_level="CRITICAL", namespace=f"lmhead-{uuid.uuid4().hex}")
        except Exception as error:  # ConnectionError, and whatever else a library of that size raises
            raise RequestError(f"--ray must be the address of a Ray cluster, got {address}: {one_line(error)}") from None
        self.programs = os.path.dirname(os.path.abspath(sys.argv[0]))
        self.version = find_lmhead(self.programs)[1]
        self.mark = Path(folder) / f".ray-{uuid.uuid4().hex}"
        self.mark.touch()
        self.runs: dict[Any, Handed] = {}  # by what `carry_out` gives

    def start(self, ticket: int, configuration: dict[str, Any], folder: str) -> None:
        threads = int(configuration["training"].get("threads") or 1)
        options = {"num_cpus": threads, "max_restarts": RESTARTS, "max_task_retries": RESTARTS, "max_concurrency": 4}
        accelerators = 0 if configuration["training"].get("device", "cpu") == "cpu" else 1
        actor = self.ray.remote(**options, num_gpus=accelerators)(Run).remote(configuration, folder, str(self.mark), os.getcwd(), threads,
                                                                                   self.programs, self.version)
        self.runs[actor.carry_out.remote()] = Handed(ticket, Path(folder), actor)

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        if not self.runs:
            time.sleep(seconds)
            return []
        ended, _ = self.ray.wait(list(self.runs), timeout=seconds)
        events = [self.end_of(self.runs.pop(one), one) for one in ended]
        for handed in self.runs.values():
            events += handed.steps(self.ray)
        return events

    def end_of(self, handed: Handed, answer: Any) -> dict[str, Any]:
        try:
            said = self.ray.get(answer)
            if said.get("files"):
                write_files(handed.folder, said.pop("files"))
        except Exception as error:
            said = {"end": "stopped"} if handed.given_up else {"end": "failed", "error": f"[study] a cluster must keep its runs, got: {one_line(error)}"}
        with contextlib.suppress(Exception):
            self.ray.kill(handed.actor)
        return {"ticket": handed.ticket, "end": said["end"], "error": said.get("error", "")}

    def stop(self) -> None:
        """Runs save and end; those that wait for their turn are given up."""
        for handed in self.runs.values():
            if handed.is_there:
                handed.actor.stop.remote()
            else:
                handed.given_up = True
                self.ray.kill(handed.actor)

    def close(self) -> None:
        self.stop()
        given_up = time.monotonic() + LOCK_SECONDS
        while self.runs and time.monotonic() < given_up:
            self.wait(0.1)
        self.mark.unlink(missing_ok=True)
        self.ray.shutdown()


class Handed:
    """A run that the cluster has."""

    def __init__(self, ticket: int, folder: Path, actor: Any):
        self.ticket, self.folder, self.actor = ticket, folder, actor
        self.is_there = self.given_up = False
        self.asked = actor.step.remote()
        self.told, self.at = -1, time.monotonic()

    def steps(self, ray: Any) -> list[dict[str, Any]]:
        if time.monotonic() < self.at or not ray.wait([self.asked], timeout=0)[0]:
            return []
        with contextlib.suppress(Exception):  # its node is lost; `carry_out` says what becomes of it
            self.is_there, step = True, ray.get(self.asked)
            self.asked, self.at = self.actor.step.remote(), time.monotonic() + STEP_SECONDS
            if step != self.told:
                self.told = step
                return [{"ticket": self.ticket, "step": step}]
        return []


def keep_words(folder: Path) -> None:
    """What Ray prints is no answer, and nothing for a terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "ray.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lmhead-ray", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    cluster: Cluster | None = None
    for line in sys.stdin:
        answer: dict[str, Any] = {}
        try:
            request = json.loads(line)
            if "open" in request:
                keep_words(Path(request["folder"]))
                cluster = Cluster(request["open"], request["folder"])
            elif cluster is None:
                raise RequestError("a cluster must be opened first")
            elif "start" in request:
                cluster.start(request["start"], request["configuration"], request["folder"])
            elif "wait" in request:
                answer["events"] = cluster.wait(request["wait"])
            else:
                cluster.stop()
        except Exception as error:
            answer = {"error": one_line(error)}
        print(json.dumps(answer), file=answers, flush=True)
    if cluster is not None:
        cluster.close()
    return 0
