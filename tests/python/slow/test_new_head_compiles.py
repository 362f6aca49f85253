"""The head and the reference of examples/new_head.md, compiled as the tree compiles its own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_documents import ROOT, walk  # noqa: E402

COMMANDS = ROOT / "build/release/compile_commands.json"


@pytest.mark.skipif(not COMMANDS.exists(), reason="the release build is not there")
@pytest.mark.parametrize("like, file", [("lmhead/heads/linear.cc", "lmhead/heads/gained.cc"), ("tests/heads/registry_test.cc", "tests/heads/bench.cc")])
def test_it_compiles(tmp_path, like, file):
    walk(tmp_path)
    (tmp_path / "tests/heads/bench.cc").write_text('#include "tests/heads/head_bench.h"\n')
    [command] = [each["command"] for each in json.loads(COMMANDS.read_text()) if each["file"] == str(ROOT / like)]
    words = shlex.split(command)
    compiler = next(index for index, word in enumerate(words) if word.endswith(("c++", "g++")))
    options = [word for word in words[compiler + 1 : words.index("-o")] if word != "-MD"]
    done = subprocess.run(
        [words[compiler], f"-I{tmp_path}", *options, "-fsyntax-only", str(tmp_path / file)], cwd=ROOT / "build/release", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
