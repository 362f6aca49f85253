"""Ctrl-C, SIGTERM and SIGHUP at any moment: exit code 130, no traceback, nothing left over; for every verb."""

import array
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from kill_trials import LMHEAD, environment_of, write_finished_run
from lmhead.verbs import END_WITH_INPUT, VERBS
from prepare_fixtures import SLEEP_A_MINUTE

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
NATIVE = ["train --keys", "train run", "study study.json --dry-run", "heads", "inspect run", "measure run --tokens val.bin --only gradient_retention",
          "sample run --prompt-ids 1 --ids", "export run exported"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interruptions")
    write_finished_run(folder)
    return folder


def start(folder, arguments, **options):
    environment = environment_of(folder) | options.pop("environment", {})
    return subprocess.Popen([LMHEAD, *arguments.split()], cwd=folder, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


def interrupt_at_moments(folder, arguments, moments, said):
    """Signals after times that grow from none to a whole request's; a loader that is not done yet ends as it always does.

    What an undisturbed request says may have been said before the signal came.
    """
    began = time.monotonic()
    process = start(folder, arguments)
    _, undisturbed = process.communicate(timeout=60)
    assert process.returncode == 0
    seconds = time.monotonic() - began
    codes = []
    for moment in range(moments):
        number = SIGNALS[moment % 3]
        process = start(folder, arguments)
        time.sleep(seconds * moment / moments)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        codes.append(process.returncode)
        assert process.returncode in (0, 130) or (process.returncode == -number and moment == 0), (number, errors)
        assert process.returncode == 0 or errors.removeprefix(undisturbed) in said, errors
    assert any(code != 0 for code in codes)


@pytest.mark.parametrize("verb", VERBS)
def test_a_python_verb_is_130_whenever_it_comes(folder, verb):
    said = {f"[{verb}] stopped\n"}
    if verb in END_WITH_INPUT:  # end with their input, and hear nothing before
        process = start(folder, "tokenizer nowhere" if verb == "tokenizer" else verb, stdin=subprocess.PIPE)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "") and process.returncode in (0, 130)
        return
    interrupt_at_moments(folder, f"{verb} --help", 4, said | {""})


@pytest.mark.parametrize("arguments", NATIVE)
def test_a_native_verb_is_too(folder, arguments):
    interrupt_at_moments(folder, arguments, 3, {"", "stopped and saved; go on with: lmhead train run\n"})


def test_signals_that_came_while_python_started_are_heard(folder):
    """The program that a verb is gets them while they are still held back, and ends with them before it does anything."""
    program = folder / "bin" / "lmhead-report"
    whole = program.read_text()
    program.write_text(whole.replace("import posix\n", "import posix, time\nprint('now', flush=True)\ntime.sleep(0.5)\n", 1)
                       .replace(" -S\n", "\n", 1))
    try:
        for number in SIGNALS:
            process = start(folder, "report nowhere")
            assert process.stdout.readline() == "now\n"
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (130, "[report] stopped\n")
    finally:
        program.write_text(whole)


def test_a_program_without_packages_yet_ends_in_one_line(folder, tmp_path):
    """Called by itself: from its first line on, while the interpreter still looks for packages."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys, time\nprint('now', flush=True)\n{SLEEP_A_MINUTE}\n")
    for number in SIGNALS:
        process = subprocess.Popen([folder / "bin" / "lmhead-prepare", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
        assert process.stdout.readline() == "now\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, "[prepare] stopped\n")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("to_group", [True, False], ids=["group", "parent"])
def test_what_passes_between_programs_is_gone(folder, tmp_path, number, to_group):
    """lmhead measure --text while its tokeniser works: neither that nor the folder for its ids stays."""
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    program = tmp_path / "bin" / "lmhead-tokenize"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom lmhead import process\n"
                       "def load():\n    import time, os\n"
                       "    os.mkdir(sys.argv[2]); open(sys.argv[2] + '/ids', 'w').close(); open('pid', 'w').write(str(os.getpid()))\n"
                       f"    {SLEEP_A_MINUTE}\n"
                       "process.run('tokenize', load)\n")
    program.chmod(0o755)
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.bin").write_bytes(array.array("H", [i % 256 for i in range(600)]).tobytes())
    sha256 = hashlib.sha256((data / "train.bin").read_bytes()).hexdigest()
    splits = {split: {"file": f"{split}.bin", "tokens": 600, "bytes": 600, "documents": 1, "sha256": sha256} for split in ("train", "validation")}
    (data / "dataset.json").write_text(json.dumps({
        "format": "lmhead-dataset", "version": 1, "vocab_size": 257, "token_type": "uint16", "tokenizer": None,
        "tokenizer_hash": "bytes", "end_of_document": 256, "splits": splits, "content_hash": "content"}))
    configuration = json.loads((folder / "config.json").read_text())
    configuration["data"] |= {"path": str(data)}
    configuration["model"].pop("vocab_size")
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    done = subprocess.run([LMHEAD, "train", "config.json", "--run", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "tmp")}
    process = start(tmp_path, "measure run --text text.txt", environment=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    assert len(os.listdir(tmp_path / "tmp")) == 1
    (os.killpg if to_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors in ("", "[tokenize] stopped\n")
    assert os.listdir(tmp_path / "tmp") == []
    assert not pathlib.Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
