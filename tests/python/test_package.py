"""pip install makes an environment in which everything works, away from the sources."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

torch = pytest.importorskip("torch")
slow = pytest.mark.skipif(not os.environ.get("LMHEAD_SLOW_TESTS"), reason="takes minutes: make test-slow")

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
USE = """
import torch, lmhead
from lmhead import ops
hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4)
loss = lmhead.linear_cross_entropy(hidden, weight, torch.arange(5))
loss.backward()
torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(hidden @ weight.T, torch.arange(5)))
lmhead.GradientRetention(weight).update(hidden, torch.arange(5))
print(ops.library_path())
"""


def run(*command, **options):
    # What the caller has set for this tree must not help the installed package.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LMHEAD_LIBRARY")}
    # The compiler that CMake takes by itself, so that a compiler cache knows the files from the ordinary build.
    environment |= {"CC": os.environ.get("CC", "cc"), "CXX": os.environ.get("CXX", "c++")}
    environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", "2")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def make_environment(folder):
    """A new environment that sees the torch of this one and nothing of this tree."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    site = pathlib.Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "torch-of-the-tests.pth").write_text(f"{pathlib.Path(torch.__file__).parents[1]}\n")
    return python, site


def install(python, *what):
    # No network, and no second torch: what the package depends on is checked by using it.
    run(python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check",
        *what, cwd=REPOSITORY)


def test_every_python_verb_is_installed_as_a_program():
    tomllib = pytest.importorskip("tomllib")
    from lmhead.__main__ import MODULES, VERBS

    programs = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert programs == {f"lmhead-{verb}": f"lmhead.{MODULES.get(verb, verb)}:main" for verb in VERBS}


@slow
def test_an_installed_wheel_does_the_main_job(tmp_path):
    python, site = make_environment(tmp_path / "environment")
    install(python, ".")
    away = tmp_path / "away"
    away.mkdir()
    assert run(python, "-c", USE, cwd=away).strip() == str(site / "lmhead/liblmhead.so")
    assert (site / "lmhead/py.typed").is_file()

    scripts = python.parent  # not on the path: nothing may depend on an activated environment
    lmhead = scripts / "lmhead"
    assert "prepare" in run(lmhead, "--help", cwd=away)
    heads = json.loads(run(lmhead, "heads", "--json", cwd=away))
    assert "linear" in json.dumps(heads)
    text = away / "text.txt"
    text.write_text("".join(f"{number} heads are bottlenecks, or they are not.\n" for number in range(200)))
    run(lmhead, "prepare", "data", text, "--bytes", "--validation-fraction", "0.5", "--document-bytes", "200", cwd=away)
    configuration = {
        "data": {"path": "data", "sequence_length": 16, "batch_size": 4},
        "model": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
        "training": {"steps": 4},
        "observe": {"gradient_retention": {"every": 2}},
    }
    (away / "tiny.json").write_text(json.dumps(configuration))
    run(lmhead, "train", "tiny.json", "--run", "run", cwd=away)
    assert json.loads((away / "run/summary.json").read_text())["state"] == "finished"
    run(lmhead, "report", "run", cwd=away)
    assert (away / "run/report.html").stat().st_size > 10_000


@slow
def test_an_editable_installation_takes_python_from_the_tree_and_the_library_from_the_environment(tmp_path):
    python, site = make_environment(tmp_path / "environment")
    install(python, "-e", ".")
    where = run(python, "-c", USE + "print(lmhead.__file__)", cwd=tmp_path).split()
    assert where == [str(site / "lmhead/liblmhead.so"), str(REPOSITORY / "python/lmhead/__init__.py")]
    assert "prepare" in run(python.parent / "lmhead", "prepare", "--help", cwd=tmp_path)


@slow
def test_the_source_distribution_holds_what_building_needs(tmp_path):
    code = "import sys, scikit_build_core.build as build; print(build.build_sdist(sys.argv[1]))"
    archive = tmp_path / run(sys.executable, "-c", code, tmp_path, cwd=REPOSITORY).split()[-1]
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    tracked = set(run("git", "ls-files", "lmhead", "cmake", "python", "CMakeLists.txt", "README.md", cwd=REPOSITORY).split())
    assert tracked <= names
    assert not [name for name in names if name.startswith((".venv", "build/", "runs/", ".git/"))]
