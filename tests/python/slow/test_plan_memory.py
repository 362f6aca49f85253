"""The memory that `lmhead plan` says, against what processes of a run take at most."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_parallel_training import finish, start_training, tiny  # noqa: E402
from test_train_command import LMHEAD, write_dataset  # noqa: E402

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
LARGE = {"model.hidden_size": 384, "model.num_hidden_layers": 6, "model.num_attention_heads": 6, "model.vocab_size": 24000, "data.sequence_length": 128}
CLOSE = 0.2


def peak_of(folder, name, size, changes):
    (folder / f"{name}.json").write_text(json.dumps(tiny(folder, changes, steps=2, validate_every=0, checkpoint_every=0)))
    codes, _, errors = finish(start_training(folder, size, f"{name}.json", "--run-folder", f"{name}-{size}"), 600)
    assert not any(codes), errors
    return json.loads((folder / f"{name}-{size}" / "summary.json").read_text())["peak_memory_bytes"]


@pytest.mark.parametrize("size, parallel, tied", [
    (1, {}, False), (2, {}, False), (2, {"optimizer": "sharded"}, False), (2, {"optimizer": "sharded", "vocabulary": "on"}, False), (4, {}, False),
    (4, {"optimizer": "sharded"}, False), (4, {"optimizer": "replicated", "vocabulary": "on"}, False), (2, {"vocabulary": "on"}, True),
])  # fmt: skip
def test_a_process_takes_what_the_plan_says(tmp_path, size, parallel, tied):
    write_dataset(tmp_path / "data")
    program = peak_of(tmp_path, "tiny", size, {})
    measured = peak_of(tmp_path, "large", size, {**LARGE, "parallel": parallel, "model.tie_word_embeddings": tied}) - program
    command = [LMHEAD, "plan", "large.json", "--processes", str(size), "--link", "1,10", "--rate", "1", "--json"]
    plan = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    way, = [way for way in plan["ways"] if (way["parallel.optimizer"], way["parallel.vocabulary"])
            == (parallel.get("optimizer", "replicated"), parallel.get("vocabulary", "off"))]  # fmt: skip
    print(size, parallel, tied, f"measured {measured / 2**20:.0f} MiB, planned {way['memory_bytes']['peak'] / 2**20:.0f} MiB")
    assert way["memory_bytes"]["peak"] == pytest.approx(measured, rel=CLOSE)
