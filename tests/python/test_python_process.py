"""Python's verbs as processes: interruptions at any moment, and output that cannot be written."""

import os
import signal
import subprocess
import sys
import time

import pytest
from prepare_fixtures import PYTHON, SLEEP_A_MINUTE, left_over, texts, write_folder

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PYTHON)}
VERB = [sys.executable, "-m", "lmhead"]


def start(*arguments, **options):
    return subprocess.Popen([*VERB, *map(str, arguments)], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, **options)


# What runs before a module is imported, while it is, and inside the work, and says when.
WHILE_IMPORTING = f"""
import sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == 'numpy':
            import time
            print('now', flush=True)
            {SLEEP_A_MINUTE}
sys.meta_path.insert(0, Finder())
"""
WHILE_WORKING = f"""
from lmhead.prepare import dataset
def slow(self, document):
    import time
    print('now', file=sys.stderr, flush=True)
    {SLEEP_A_MINUTE}
dataset.SplitWriter.add = slow
"""
WHERE_EXCEPTIONS_ARE_LOST = f"""
from lmhead.prepare import dataset
def slow(self, document):
    import time
    print('now', file=sys.stderr, flush=True)
    try:
        {SLEEP_A_MINUTE}
    except BaseException:
        raise ValueError('something else') from None
dataset.SplitWriter.add = slow
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("setup", [WHILE_IMPORTING, WHILE_WORKING, WHERE_EXCEPTIONS_ARE_LOST])
def test_an_interruption_is_130_and_one_line(tmp_path, number, setup):
    folder = write_folder(tmp_path / "in", texts(20))
    script = f"import sys\n{setup}\nfrom lmhead.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", script, "prepare", str(tmp_path / "out"), str(folder), "--bytes"],
                               env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stream = process.stdout if setup is WHILE_IMPORTING else process.stderr
    while stream.readline() != "now\n":
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.splitlines() == ["[prepare] stopped"], err
    assert not (tmp_path / "out").exists() and left_over(tmp_path) == []


def test_a_verb_that_keeps_what_it_has_says_so_once(tmp_path):
    script = ("import sys, os, signal\nfrom lmhead import process\nfrom lmhead.process import interruptions\n"
              "def work():\n    interruptions.advice = '; what is scored is kept'\n    os.kill(os.getpid(), signal.SIGINT)\n"
              "sys.exit(process.run('evaluate', lambda: work))")
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "[evaluate] stopped; what is scored is kept\n")


def test_an_interruption_at_any_time_leaves_all_or_nothing(tmp_path):
    folder = write_folder(tmp_path / "in", texts(300))
    whole = start("prepare", tmp_path / "whole", folder, "--bytes")
    began = time.monotonic()
    whole.communicate(timeout=60)
    seconds = time.monotonic() - began
    wanted = {path.name for path in (tmp_path / "whole").iterdir()}
    for step in range(12):
        process = start("prepare", tmp_path / f"out{step}", folder, "--bytes")
        time.sleep(0.1 + seconds * step / 12)  # the interpreter itself starts in less
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        out = tmp_path / f"out{step}"
        assert "Traceback" not in err and process.returncode in (0, 130), err
        assert not out.exists() or {path.name for path in out.iterdir()} == wanted
        assert out.exists() or process.returncode == 130
        assert left_over(tmp_path) == []


def test_a_folder_that_is_being_made_is_known_before_an_interruption_comes():
    program = """
import os, signal
from lmhead.process import interruptions
interruptions.importing("test")
interruptions.working()
try:
    with interruptions.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        made = True
    print("went on")
except KeyboardInterrupt:
    print("made", made)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert (done.stdout, done.stderr, done.returncode) == ("made True\n", "", 0)


def test_what_the_caller_ignores_stays_ignored(tmp_path):
    folder = write_folder(tmp_path / "in", texts(200))
    process = start("prepare", tmp_path / "out", folder, "--bytes",
                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    for _ in range(20):
        time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("request_of", ["prepare", "--help", "prepare --help", "report --help"])
@pytest.mark.parametrize("end", ["full", "closed", "broken pipe"])
def test_standard_output_that_is_lost_is_one_line_and_2(tmp_path, request_of, end):
    arguments = request_of.split()
    if request_of == "prepare":
        arguments += [str(tmp_path / "out"), str(write_folder(tmp_path / "in", texts(40))), "--bytes", "--validation-fraction",
                      "0.3"]
    if end == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    elif end == "broken pipe":
        reader, out = os.pipe()
        os.close(reader)
    else:
        out = None
    # Without a standard output a child must not write into the next file that it opens.
    done = subprocess.run([*VERB, *arguments], env=ENVIRONMENT, stdout=out, stderr=subprocess.PIPE, text=True,
                          preexec_fn=(lambda: os.close(1)) if end == "closed" else None)
    if out is not None:
        os.close(out)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert "standard output must be writable, got: " in line and "Traceback" not in done.stderr
    assert ("[prepare]" in line) == request_of.startswith("prepare")


@pytest.mark.parametrize("end", ["full", "closed"])
@pytest.mark.parametrize("arguments", [["nonsense"], ["prepare", "out", "nowhere"], ["report", "nowhere"]])
def test_standard_error_that_is_lost_is_2_all_the_same(tmp_path, arguments, end):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*VERB, *arguments], env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=full,
                              preexec_fn=(lambda: os.close(2)) if end == "closed" else None)
    assert done.returncode == 2 and done.stdout == b"" and os.listdir(tmp_path) == []


def test_a_closed_standard_input_is_an_empty_one(tmp_path):
    done = subprocess.run([*VERB, "tokenizer", "nowhere"], env=ENVIRONMENT, capture_output=True,
                          preexec_fn=lambda: os.close(0))
    assert done.returncode == 0 and done.stdout == b"" and done.stderr == b""
