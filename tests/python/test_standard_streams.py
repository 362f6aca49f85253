"""Output that nobody takes, for every verb: one line and exit code 2, never success."""

import json
import os
import subprocess

import pytest
from kill_trials import LMHEAD, environment_of, write_finished_run
from lmhead.verbs import VERBS

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
NATIVE = [
    "train run", "train config.json --run new training.steps=2", "train --keys", "study study.json --dry-run",
    "study study.json training.steps=2 --out out", "heads", "heads --json", "measure run --tokens val.bin --only gradient_retention", "inspect run",
    "export run exported", "sample run --prompt-ids 1,2 --ids", "--help", "--version", "train --help",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, and every Python verb's program."""
    folder = tmp_path_factory.mktemp("streams")
    write_finished_run(folder)
    return folder


def run(folder, arguments, stdout=None, stderr=subprocess.PIPE, closed=None):
    return subprocess.run([LMHEAD, *arguments.split()], cwd=folder, env=environment_of(folder), stdin=subprocess.DEVNULL, stdout=stdout,
                          stderr=stderr, text=True, timeout=120, preexec_fn=None if closed is None else lambda: os.close(closed))


def run_with_lost_output(folder, arguments, end):
    if end == "closed":
        return run(folder, arguments, closed=1)
    if end == "full":
        with open("/dev/full", "w") as full:
            return run(folder, arguments, stdout=full)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return run(folder, arguments, stdout=writer)
    finally:
        os.close(writer)


WHY = {"full": "No space left on device", "closed": "Bad file descriptor", "broken pipe": "Broken pipe"}


@pytest.mark.parametrize("arguments, end", [*((arguments, "full") for arguments in NATIVE),
                                            *((arguments, end) for arguments in ("heads", "train run", "--version", NATIVE[-4])
                                              for end in ("closed", "broken pipe"))])
def test_standard_output_that_is_lost_is_one_line_and_2(folder, arguments, end):
    done = run_with_lost_output(folder, arguments, end)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == f"[lmhead] standard output must take what is printed, got: {WHY[end]}"


@pytest.mark.parametrize("verb", VERBS)
def test_that_of_a_python_verb_too(folder, verb):
    end = list(WHY)[len(verb) % 3]  # test_python_process.py has all of one verb
    done = run_with_lost_output(folder, f"{verb} --help", end)
    assert (done.returncode, done.stderr) == (2, f"[{verb}] standard output must be writable, got: {WHY[end]}\n")


@pytest.mark.parametrize("end", ["full", "closed"])
@pytest.mark.parametrize("arguments", ["nonsense", "train nowhere.json", "inspect nowhere/at/all", "heads nothing",
                                       "train config.json --run lost-{end} training.steps=2"])
def test_standard_error_that_is_lost_is_2_all_the_same(folder, arguments, end):
    with open("/dev/full", "w") as full:
        done = run(folder, arguments.format(end=end), stdout=subprocess.PIPE, stderr=full, closed=2 if end == "closed" else None)
    assert done.returncode == 2 and "nonsense" not in done.stdout


def test_nothing_is_written_into_files_that_took_a_closed_stream(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "out" not in str(path)}
    for closed in (0, 1, 2):
        run(folder, "inspect run --json", stdout=subprocess.DEVNULL, closed=closed)
        run(folder, "export run exported-again", stdout=subprocess.DEVNULL, closed=closed)
    assert all(path.read_bytes() == content for path, content in before.items())
    header = (folder / "exported-again" / "model.safetensors").read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])


@pytest.mark.parametrize("arguments", ["train --keys", "heads", "sample run --prompt-ids 1 --ids --max-new-tokens 100000000"])
def test_a_reader_that_has_enough_ends_the_writer(folder, arguments):
    """As `lmhead ... | head -c 1` does: whoever has more to say ends at once, and says that it was not heard."""
    process = subprocess.Popen([LMHEAD, *arguments.split()], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.read(1)
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 2) and "Traceback" not in errors
    assert process.returncode == 2 or errors == ""
    assert "sample" not in arguments or process.returncode == 2, errors
