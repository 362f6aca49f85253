"""What a terminal would obey never reaches it from names in files: tables show it as \\x1b."""

import json
import subprocess

import pytest
from test_train_command import LMHEAD

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
HOSTILE = "a\x1b]0;b\x07\u009b2Jc\u202ed"
SHOWN = "a\\x1b]0;b\\x07\\xc2\\x9b2Jc\\xe2\\x80\\xaed"


def printed(folder, *arguments, code=0):
    done = subprocess.run([LMHEAD, *map(str, arguments)], check=False, cwd=folder, capture_output=True, timeout=120)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == code, text
    assert all(character.isprintable() or character == "\n" for character in text), ascii(text)
    return text


def test_study_shows_names_and_obeys_none(tmp_path):
    study = {
        "name": "x",
        "base": {
            "data": {"kind": "spamlang", "sequence_length": 8},
            "model": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
            "training": {"steps": 1},
        },
        "grid": {"training.initial_weights": [HOSTILE]},
        "outcome": "validation." + HOSTILE,
        "correlations": [{"predictors": [HOSTILE], "at_step": 1}],
    }
    study["base"]["training"]["steps"] = 2
    (tmp_path / "study.json").write_text(json.dumps(study))
    printed(tmp_path, "study", "study.json", "--dry-run", "--out", tmp_path / HOSTILE)
    assert printed(tmp_path, "study", "study.json", "--statistics-only").count(SHOWN) >= 3
    assert SHOWN in printed(tmp_path, "study", "study.json", code=1)  # there is no such file of weights
    for name in (HOSTILE, "a\nb", ".."):
        (tmp_path / "study.json").write_text(json.dumps(study | {"name": name}))
        assert "[study] name must be 1 to 200 bytes" in printed(tmp_path, "study", "study.json", code=2)


def test_inspect_and_measure_show_names_and_obey_none(tmp_path):
    numpy = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    draw = numpy.random.default_rng(0)
    file = tmp_path / f"{HOSTILE}.safetensors"
    save_file(
        {
            "hidden": draw.normal(size=(20, 4)).astype("float32"),
            "weight": draw.normal(size=(8, 4)).astype("float32"),
            "targets": draw.integers(0, 8, 20),
        },
        file,
    )
    assert printed(tmp_path, "inspect", file).count(SHOWN) == 1
    assert SHOWN[-8:] in printed(tmp_path, "measure", file, "--only", "gradient_retention")
