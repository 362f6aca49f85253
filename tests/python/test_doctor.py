"""lmhead doctor: what it says of a whole installation, and of one in which something is broken."""

import json
import os
import subprocess
import sys

import pytest
from kill_trials import LMHEAD

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")


def doctor(*arguments, **environment):
    command = [sys.executable, "-m", "lmhead", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_whole_installation_has_no_faults():
    done = doctor("--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["faults"] == [] and found["lmhead"]["commit"] and found["system"]["kernels"] == found["torch"]["cpu_capability"]
    assert found["packages"]["torch"] == found["torch"]["version"]


def test_the_text_says_what_json_says():
    text, found = doctor().stdout, json.loads(doctor("--json").stdout)
    values = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert values["torch.version"] == found["torch"]["version"] and values["system.kernels"] == found["system"]["kernels"]
    assert values["devices.cuda"] == ", ".join(found["devices"]["cuda"]) or values["devices.cuda"] == "none"
    assert all(len(line) < 300 for line in text.splitlines())


def test_what_is_broken_is_named_and_the_rest_is_said_all_the_same(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object file')\n")
    done = doctor(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and done.stderr == ""
    assert "FAULT                    torch must load: ImportError: libtorch_cpu.so: cannot open" in done.stdout
    assert "system.python" in done.stdout and "packages.numpy" in done.stdout


def test_a_missing_extra_is_said_with_its_name_and_no_fault(monkeypatch):
    from lmhead import doctor as module

    monkeypatch.setattr(module, "_version", lambda package: None if package == "lm_eval" else "1.0")
    found = module.facts()
    assert found["packages"]["lm_eval"] is None and not found["faults"]
    assert "packages.lm_eval         missing: lmhead evaluate; pip install 'lmhead[evaluate]'" in module.as_text(found)
    monkeypatch.setattr(module, "_version", lambda package: None if package == "jinja2" else "1.0")
    assert module.facts()["faults"] == ["jinja2 must be installed (pages)"]


def test_a_wrong_flag_is_one_line():
    done = doctor("--jso", "x")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
