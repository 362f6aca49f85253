"""What runs on a GPU, as far as a machine without one can tell: the check for one, the one line without, and the benchmark's own arithmetic on the CPU."""
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def module_of(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    specification = importlib.util.spec_from_file_location(path.stem + "_under_test", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def fake_torch(version, cuda, available):
    return types.SimpleNamespace(
        __version__=version, version=types.SimpleNamespace(cuda=cuda), cuda=types.SimpleNamespace(is_available=lambda: available)
    )


@pytest.mark.parametrize(("torch_there", "said"), [
    (fake_torch("2.10.1+cu128", "12.8", True), "torch 2.11 or newer, got torch 2.10.1+cu128"),
    (fake_torch("2.13.0+cpu", None, False), "built for CUDA, got torch 2.13.0+cpu"),
    (fake_torch("2.13.0+cu130", "13.0", False), "a GPU must be there, got none that torch 2.13.0+cu130 sees"),
    (fake_torch("2.13.0+cu130", "13.0", True), None),
])
def test_what_is_missing_is_named(torch_there, said, monkeypatch):
    wrong = module_of(ROOT / "scripts/find_gpu.py", monkeypatch).what_is_wrong(torch_there)
    assert wrong is None if said is None else wrong.endswith(said)


def test_a_package_that_a_benchmark_needs_is_named(monkeypatch, capsys):
    there = fake_torch("2.13.0+cu130", "13.0", True)
    there.cuda.get_device_name = lambda: "a GPU"
    monkeypatch.setitem(sys.modules, "torch", there)
    main = module_of(ROOT / "scripts/find_gpu.py", monkeypatch).main
    monkeypatch.setattr(sys, "argv", ["find_gpu.py", "bench-gpu", "json", "no_such_package"])
    assert main() == 2
    assert capsys.readouterr().err == f"[bench-gpu] PYTHON must name an interpreter with no_such_package, got {sys.executable} without\n"
    monkeypatch.setattr(sys, "argv", ["find_gpu.py", "bench-gpu", "json"])
    assert main() == 0 and capsys.readouterr().out.startswith("a GPU, torch 2.13.0+cu130")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("program", ["test_gpu", "bench_gpu"])
def test_without_a_gpu_there_is_one_line(program):
    done = subprocess.run([ROOT / "scripts" / program], env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"[{program.replace('_', '-')}] ") and done.stderr.count("\n") == 1


def test_an_interpreter_that_is_not_there_is_named():
    done = subprocess.run([ROOT / "scripts/test_gpu"], env=os.environ | {"PYTHON": "no-such-python"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "[test-gpu] PYTHON must name an interpreter, got no-such-python\n")


def run_benchmark(monkeypatch, capsys, tmp_path, entrants=None, arguments=()):
    bench = module_of(ROOT / "bench/gpu.py", monkeypatch)
    if entrants:
        monkeypatch.setattr(bench, "ENTRANTS", entrants(bench))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--shapes", "tiny", "--rounds", "2", "--out", str(tmp_path / "rows"), *arguments])
    assert bench.main() == 0
    return [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()], capsys.readouterr().out


def test_the_benchmark_checks_and_times_every_entrant_that_is_here(monkeypatch, capsys, tmp_path):
    rows, said = run_benchmark(monkeypatch, capsys, tmp_path, arguments=["--entrants", "lmhead", "torch eager", "Liger-Kernel"])
    timed = {row["entrant"] for row in rows if row["metric"] == "seconds"}
    assert {"lmhead", "torch eager", "three products"} <= timed
    assert "errs by" not in said
    assert [row for row in rows if row["metric"] == "share_of_retention"]
    assert importlib.util.find_spec("liger_kernel") or "Liger-Kernel                 is not here" in said


def test_an_entrant_that_is_wrong_is_named_and_not_timed(monkeypatch, capsys, tmp_path):
    def with_a_wrong_one(bench):
        return {"torch eager": bench.eager_loss, "wrong": lambda: lambda hidden, weight, targets: 1.1 * bench.eager_loss()(hidden, weight, targets)}

    rows, said = run_benchmark(monkeypatch, capsys, tmp_path, with_a_wrong_one, ["--dtypes", "float32"])
    assert {row["entrant"] for row in rows} == {"torch eager", "three products"}
    assert "wrong" in said and "errs by 1.0e-01 against float64 and is not timed" in said
