"""The commit that a build says it is of."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("git"), reason="needs cmake and git")


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_of(source, output):
    script = ROOT / "cmake/build_commit.cmake"
    subprocess.run(["cmake", f"-DSOURCE={source}", f"-DOUTPUT={output}", "-P", script], check=True, capture_output=True)
    return output.read_text().split('return "')[1].split('"')[0]


def test_a_build_names_its_own_commit_and_no_other(tmp_path):
    source, output = tmp_path / "source", tmp_path / "commit.cc"
    (source / "lmhead/base").mkdir(parents=True)
    template = shutil.copy(ROOT / "lmhead/base/build_commit.cc.in", source / "lmhead/base")
    assert commit_of(source, output) == "unknown"

    git(tmp_path, "init", "-q")  # a repository that the sources only lie in
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "theirs")
    assert commit_of(source, output) == "unknown"

    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-qm", "ours")
    commit = commit_of(source, output)
    assert commit == git(source, "rev-parse", "--short=12", "HEAD")
    written = output.stat().st_mtime_ns
    assert commit_of(source, output) == commit
    assert output.stat().st_mtime_ns == written  # nothing to compile
    with Path(template).open("a") as file:
        file.write("\n")
    assert commit_of(source, output) == commit + "-dirty"
