"""Checkpoints larger than memory: one layer at a time, within what --memory says, with the bits of any other way."""

import json
import os
import re
import shutil

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from measure_fixtures import checkpoint, command, refused, sparse_checkpoint  # noqa: E402, F401

MIB = 2**20
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SHAPE = dict(layers=16, hidden_size=1024, intermediate_size=4096, heads=8, key_value_heads=4, vocab_size=2048)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    return folder, sparse_checkpoint(folder, **SHAPE)


@pytest.fixture(scope="module")
def few_ids(tmp_path_factory):
    file = tmp_path_factory.mktemp("ids") / "ids.bin"
    np.random.default_rng(0).integers(0, 64, 65).astype("<u2").tofile(file)
    return file


def needed(said):
    """The number of bytes that a refusal names, and what the last digit of it may hide."""
    number, unit = re.search(r"--memory must be at least ([\d.]+) (\w+)", said).groups()
    return int((float(number) + 0.1) * UNITS[unit])


def figures(command, out, *arguments, **environment):
    command("measure", *arguments, "--json", out, **environment)
    return json.loads(out.read_text())


def test_a_checkpoint_larger_than_the_limit_is_measured_within_it(command, large, few_ids):
    folder, written = large
    assert sum((folder / shard).stat().st_blocks * 512 for shard in written["shards"]) < 32 * MIB
    arguments = ("measure", folder, "--tokens", few_ids, "--only", "quality", "gradient_retention")
    limit = 640 * MIB
    assert 4 * written["numbers"] > 1.25 * limit
    # The system itself keeps the process to the limit, and the block, not the layers, is what it holds.
    assert command.peak(*arguments, "--memory", "640MiB", limit=limit) < limit
    layer = 4 * (3 * 1024 * 4096 + 3 * 1024 * 1024)
    assert command.peak(*arguments) < 2 * layer + 128 * MIB < 4 * written["numbers"] / 2


def test_a_limit_that_is_too_small_is_refused_with_the_one_that_is_not(command, checkpoint, large, few_ids, tmp_path):
    folder, _ = large
    arguments = (folder, "--tokens", few_ids, "--only", "quality")
    said = refused(command, *arguments, "--memory", "100MiB")
    assert "the largest layer" in said and "the head" in said
    figures(command, tmp_path / "out.json", *arguments, "--memory", needed(said))
    assert needed(refused(command, *arguments, "--memory", needed(said) - MIB)) == needed(said)
    in_bfloat16 = needed(refused(command, *arguments, "--memory", "100MiB", "--precision", "bfloat16"))
    assert in_bfloat16 < needed(said)
    assert "--memory" in refused(command, *arguments, "--memory", "much")
    assert "--engine transformers" in refused(command, checkpoint, "--tokens", few_ids, "--engine", "transformers",
                                              "--memory", "1GiB")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_size_of_chunks_changes_no_bit(command, checkpoint, tmp_path, precision):
    """With the least memory a chunk is one batch of 4096 tokens; without a limit all tokens are one chunk."""
    np.random.default_rng(1).integers(8, 320, 9000).astype("<u2").tofile(tmp_path / "ids.bin")
    arguments = (checkpoint, "--tokens", tmp_path / "ids.bin", "--precision", precision, "--sample", 512, "--only", "quality",
                 "gradient_retention", "token_breakdown", "update_direction")
    least = needed(refused(command, *arguments, "--memory", "1MiB"))
    whole = figures(command, tmp_path / "whole.json", *arguments)
    assert figures(command, tmp_path / "parts.json", *arguments, "--memory", least) == whole
    assert whole["models"][0].get("precision") == (None if precision == "float32" else precision)


def test_what_was_kept_of_an_interrupted_measurement_is_gone_on_with(command, checkpoint, tmp_path):
    np.random.default_rng(1).integers(8, 320, 14000).astype("<u2").tofile(tmp_path / "ids.bin")
    arguments = (checkpoint, "--tokens", tmp_path / "ids.bin", "--only", "quality", "gradient_retention")
    arguments += ("--memory", needed(refused(command, *arguments, "--memory", "1MiB")))
    kept = tmp_path / "kept"
    want = figures(command, tmp_path / "want.json", *arguments)
    process = command.begin("measure", *arguments, "--keep", kept)
    while len(list(kept.glob("*.safetensors"))) < 2:
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    whole = [file for file in kept.iterdir() if file.suffix == ".safetensors"]
    assert figures(command, tmp_path / "got.json", *arguments, "--keep", kept) == want
    assert not kept.exists()
    # What is there is read: where it is damaged that is said, and nothing else is made of it.
    kept.mkdir()
    whole[0].write_bytes(b"no such file")
    assert whole[0].name in refused(command, *arguments, "--keep", kept)


def test_a_head_larger_than_the_limit_lies_on_disk(command, tmp_path):
    """Its matrix and a basis of it are 512 MiB in float32; the figures are those of a head in memory."""
    folder = tmp_path / "model"
    written = sparse_checkpoint(folder, layers=2, hidden_size=512, intermediate_size=1024, heads=8, key_value_heads=4,
                                vocab_size=131072)
    np.random.default_rng(0).integers(0, 64, 33).astype("<u2").tofile(tmp_path / "ids.bin")
    arguments = ("--tokens", tmp_path / "ids.bin", "--token-type", "uint16", "--only", "quality", "gradient_retention")
    limit = 512 * MIB
    assert written["shards"] and 2 * 4 * 131072 * 512 == limit
    want = figures(command, tmp_path / "want.json", folder, *arguments)
    assert figures(command, tmp_path / "got.json", folder, *arguments, "--memory", limit, TMPDIR=str(tmp_path)) == want
    assert command.peak("measure", folder, *arguments, "--memory", limit, limit=limit) < limit
    assert not list(tmp_path.glob("lmhead-*"))


def test_bfloat16_features_are_near_those_of_float32(command, checkpoint, tmp_path):
    np.random.default_rng(2).integers(8, 320, 600).astype("<u2").tofile(tmp_path / "ids.bin")
    arguments = (checkpoint, "--tokens", tmp_path / "ids.bin", "--only", "quality", "gradient_retention")
    [wide], [narrow] = (figures(command, tmp_path / f"{name}.json", *arguments, "--precision", name)["models"]
                        for name in ("float32", "bfloat16"))
    assert narrow["quality"]["loss"] != wide["quality"]["loss"]
    # Features are off by some 2^-8 of their size, here logits of size 3, with either sign over 600 tokens.
    assert narrow["quality"]["loss"] == pytest.approx(wide["quality"]["loss"], abs=0.02)
    assert narrow["gradient_retention"]["retained_energy"] == pytest.approx(wide["gradient_retention"]["retained_energy"], abs=0.005)
    # The head is the same one.
    for key in ("rank", "condition", "null_destroyed_ratio"):
        assert narrow["gradient_retention"].get(key) == wide["gradient_retention"].get(key)


def test_auto_takes_bfloat16_where_weights_and_processor_have_it(command, checkpoint, large, few_ids, tmp_path):
    capable = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_tile"))
    stored_so = figures(command, tmp_path / "a.json", large[0], "--tokens", few_ids, "--precision", "auto", "--only", "quality")
    stored_wide = figures(command, tmp_path / "b.json", checkpoint, "--tokens", few_ids, "--precision", "auto", "--only", "quality")
    assert stored_so["models"][0].get("precision") == ("bfloat16" if capable else None)
    assert "precision" not in stored_wide["models"][0]


@pytest.mark.parametrize("change, said", [
    (lambda shard: shard.unlink(), "got none of that name"),
    (lambda shard: os.truncate(shard, shard.stat().st_size // 2), "bytes that it had when it was opened|got other content"),
    (lambda shard: shutil.copyfile(shard, f"{shard}.new") and os.replace(f"{shard}.new", shard), "got another file in its place"),
])
def test_a_shard_that_changes_meanwhile_is_one_line(command, large, tmp_path, change, said):
    folder = tmp_path / "model"
    written = sparse_checkpoint(folder, **SHAPE)
    np.random.default_rng(0).integers(0, 64, 129).astype("<u2").tofile(tmp_path / "ids.bin")
    process = command.begin("measure", folder, "--tokens", tmp_path / "ids.bin", "--only", "quality")
    # Some layers of the first shard are read, and none of the second is.
    while bytes_read(process.pid) < 2 * written["numbers"] // 4:
        assert process.poll() is None, process.communicate()
    change(folder / written["shards"][1])
    _, errors = process.communicate(timeout=120)
    # Progress is a line every ten seconds where there is no terminal.
    lines = [line for line in errors.splitlines() if " tokens/s" not in line]
    assert process.returncode == 2 and len(lines) == 1 and re.search(said, lines[0]), errors


def bytes_read(pid):
    """By its own reading; what is mapped, as libraries are, does not count."""
    return int(open(f"/proc/{pid}/io").read().split("rchar: ")[1].split()[0])
