"""pip install makes an environment in which everything works, away from the sources."""

import ast
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

torch = pytest.importorskip("torch")
tomllib = pytest.importorskip("tomllib")
requirements = pytest.importorskip("packaging.requirements")
utils = pytest.importorskip("packaging.utils")
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


def declared(extra=""):
    """What pyproject.toml has the package depend on, as requirements."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return project["optional-dependencies"][extra] if extra else project["dependencies"]


def with_their_own(names):
    """The distributions of this environment that `names` need, themselves included."""
    found, wanted = {}, [requirements.Requirement(name) for name in names]
    while wanted:
        one = wanted.pop()
        if utils.canonicalize_name(one.name) in found or one.marker and not one.marker.evaluate({"extra": ""}):
            continue
        # Where an environment stands on another there may be two of one name.
        candidates = importlib.metadata.distributions(name=one.name)
        distribution = next(each for each in candidates if one.specifier.contains(each.version, prereleases=True))
        found[utils.canonicalize_name(one.name)] = distribution
        wanted += [requirements.Requirement(line) for line in distribution.requires or []]
    return found.values()


def make_environment(folder, *more):
    """A new environment that has what the package declares, as this one has it, and `more`; nothing else and no network."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    run(python, "-m", "pip", "uninstall", "-q", "-y", "setuptools")  # older than torch asks for, where venv brings one
    site = pathlib.Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for distribution in with_their_own([*declared(), *more]):
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    return python, site


def install(python, *what):
    run(python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check",
        *what, cwd=REPOSITORY)


def imported(path):
    """The modules that a file imports, wherever in it, by their first name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_everything_that_the_package_imports_is_declared():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [requirements.Requirement(line).name for line in [*declared(), *(one for extra in extras for one in declared(extra))]]
    allowed = {utils.canonicalize_name(name) for name in names} | {"markupsafe"}  # jinja2's own escaping
    known = importlib.metadata.packages_distributions()
    for path in (REPOSITORY / "python/lmhead").rglob("*.py"):
        for module in set(imported(path)) - set(sys.stdlib_module_names) - {"lmhead"}:
            homes = {utils.canonicalize_name(home) for home in known.get(module, [module])}
            assert homes & allowed, f"{path.name} imports {module}, which neither dependencies nor extras have"


def test_every_python_verb_is_installed_as_a_program():
    from lmhead.__main__ import VERBS

    programs = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert programs == {f"lmhead-{verb}": "lmhead.__main__:program" for verb in VERBS}


def test_a_dependency_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')\n")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY / "python")])
    done = subprocess.run([sys.executable, "-m", "lmhead", "prepare", "x"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "[prepare] numpy must be installed (pip install lmhead brings it, without --no-deps), got none\n"


@slow
def test_an_installed_wheel_does_the_main_job(tmp_path):
    wheels = tmp_path / "wheels"
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check",
        "-w", wheels, ".", cwd=REPOSITORY)
    python, site = make_environment(tmp_path / "environment")
    install(python, *wheels.iterdir())
    run(python, "-m", "pip", "check", "--disable-pip-version-check")
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
    study = {
        "name": "tiny",
        "base": {**configuration, "training": {"steps": 4, "validate_every": 2}},
        "arms": [{"name": "full"}, {"name": "rank 2", "set": {"head": {"type": "low_rank", "rank": 2}}}],
        "seeds": [0, 1],
        "comparisons": [{"baseline": "full"}],
    }
    (away / "study.json").write_text(json.dumps(study))
    run(lmhead, "study", "study.json", "--out", "study", cwd=away)
    run(lmhead, "report", "study", cwd=away)
    run(lmhead, "study-document", "study.json", "--rows", "study/rows.jsonl", "--out", "document.md", cwd=away)
    assert "rank 2 − full" in (away / "document.md").read_text() and (away / "document-differences.svg").is_file()
    done = subprocess.run([lmhead, "tensorboard", "run"], cwd=away, capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'lmhead[tensorboard]'" in done.stderr and done.stderr.count("\n") == 1
    for program in scripts.glob("lmhead-*"):
        run(program, "--help", cwd=away)


@slow
def test_an_editable_installation_takes_python_from_the_tree_and_the_library_from_the_environment(tmp_path):
    python, site = make_environment(tmp_path / "environment", "scikit-build-core")
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
