"""Files of token ids as `train` and `measure` open them: how ids are stored, what is no such file, files that change."""

import array
import json
import os
import shutil
import signal
import struct

import pytest
from measure_fixtures import checkpoint, command  # noqa: F401
from test_hostile_inputs import one_line
from test_train_command import configuration, start, wait_for_lines, write_dataset

KINDS = {  # what stands in the place of a file of ids, and what the line says
    "a pipe": (os.mkfifo, "must be a file, got a pipe"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "must be a file, got a device"),
    "a folder": (lambda path: path.mkdir(), "must be a file, got a folder"),
    "a loop": (lambda path: path.symlink_to(path), "must be readable, got: Too many levels of symbolic links"),
    "nothing": (lambda path: None, "must be readable, got: No such file or directory"),
    "no bytes": (lambda path: path.write_bytes(b""), "must hold at least one token, got an empty file"),
    "an odd number of bytes": (lambda path: path.write_bytes(b"odd"), "must hold whole ids of 2 bytes, got 3 bytes"),
}


@pytest.fixture
def place(tmp_path, checkpoint):
    """A folder as nanoGPT has it, a configuration for it, a pretrained folder."""
    write_dataset(tmp_path / "data")
    (tmp_path / "data" / "dataset.json").unlink()
    (tmp_path / "data" / "validation.bin").rename(tmp_path / "data" / "val.bin")
    shutil.copytree(tmp_path / "data", tmp_path / "uint16")
    of_run = configuration(tmp_path, steps=4)
    of_run["model"]["vocab_size"] = 64
    (tmp_path / "run.json").write_text(json.dumps(of_run))
    shutil.copytree(checkpoint, tmp_path / "model")
    return tmp_path


def rewrite(place, code, header=None):
    for name in ("train", "val"):
        ids = array.array("H", (place / "uint16" / f"{name}.bin").read_bytes()).tolist()
        opening = b"" if header is None else struct.pack("<256i", *header, len(ids), *[0] * 253)
        (place / "data" / f"{name}.bin").write_bytes(opening + array.array(code, ids).tobytes())


def validation_loss(command, place, run, *overrides):
    command("train", "run.json", "--run", run, *overrides, cwd=place)
    return json.loads((place / run / "summary.json").read_text())["final"]["validation"]["loss"]


def test_the_same_ids_train_alike_however_they_are_stored(command, place):
    loss = validation_loss(command, place, "plain")
    for run, code, header, override in (("gpt2", "H", (20240520, 1), ()), ("llama", "I", (20240801, 7), ()),
                                        ("told", "I", None, ("data.token_type=uint32",))):
        rewrite(place, code, header)
        assert validation_loss(command, place, run, *override) == loss, run
    assert "got every second one 0 as uint32 has it: data.token_type=uint32 reads it so" in one_line(
        command("train", "run.json", "--run", "guess", expect=2, cwd=place))


def test_the_vocabulary_says_how_ids_are_stored(command, place):
    wide = ("model.vocab_size=151936", "training.steps=1")
    assert "data.token_type=uint16 says" in one_line(command("train", "run.json", *wide, expect=2, cwd=place))
    loss = validation_loss(command, place, "narrow", "data.token_type=uint16", *wide)
    rewrite(place, "I")
    assert validation_loss(command, place, "wide", *wide) == loss


def test_measure_opens_ids_as_train_does(command, place):
    arguments = ("measure", "model", "--only", "quality", "--sequence-length", 16, "--max-tokens", 64, "--json", "out.json")

    def loss(*more):
        command(*arguments, "--tokens", "data/val.bin", *more, cwd=place)
        return json.loads((place / "out.json").read_text())["models"][0]["quality"]["loss"]

    expected = loss()
    rewrite(place, "I")
    assert "--token-type=uint32 reads it so" in one_line(
        command(*arguments, "--tokens", "data/val.bin", expect=2, cwd=place))
    assert loss("--token-type", "uint32") == expected
    rewrite(place, "I", (20240801, 7))
    assert loss() == expected
    assert "--token-type must be uint32 as the header of" in one_line(
        command(*arguments, "--tokens", "data/val.bin", "--token-type", "uint16", expect=2, cwd=place))
    one_line(command(*arguments, "--tokens", "data/val.bin", "--token-type", "uint8", expect=2, cwd=place))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_ids_is_refused_in_one_line(command, place, kind):
    make, message = KINDS[kind]
    write_dataset(place / "prepared")
    cases = [("data", "train.bin"), ("data", "val.bin"), ("prepared", "train.bin"), ("prepared", "validation.bin")]
    for folder, name in cases:
        path = place / folder / name
        path.rename(place / "aside")
        make(path)
        line = one_line(command("train", "run.json", f"data.path={folder}", expect=2, cwd=place))
        assert name in line and message in line
        if name == "train.bin":
            line = one_line(command("measure", "model", "--tokens", path, expect=2, cwd=place))
            assert name in line and message in line
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        (place / "aside").rename(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_refused_in_one_line(command, place):
    for path in (place / "data" / "train.bin", place / "data"):
        mode = path.stat().st_mode
        path.chmod(0)
        assert "Permission denied" in one_line(command("train", "run.json", expect=2, cwd=place))
        path.chmod(mode)


def test_a_file_that_is_cut_short_under_a_run_ends_it_in_one_line(place):
    # Longer than a page and than what is read ahead, so that a mapping would be missing the rest.
    with open(place / "data" / "train.bin", "ab") as file:
        file.write(bytes(1 << 20))
    run = start(place, "run.json", "--run", "run", "training.steps=1000000", "training.checkpoint_every=0")
    wait_for_lines(run, place / "run", 2)
    os.truncate(place / "data" / "train.bin", 0)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2, (run.returncode, said)
    assert "train.bin must keep the " in said.splitlines()[-1] and "cut short since" in said.splitlines()[-1]
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert summary["state"] == "failed" and "train.bin" in summary["error"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["train.bin", "validation.bin"])
def test_data_that_changed_since_it_was_prepared_is_refused(command, place, name):
    write_dataset(place / "prepared")
    arguments = ("train", "run.json", "data.path=prepared", "training.steps=8")
    command(*arguments, "--run", "first", cwd=place)
    known = (place / "prepared" / "checked.json").read_text()
    command(*arguments, "--run", "second", "training.seed=1", cwd=place)
    assert (place / "prepared" / "checked.json").read_text() == known
    flip(place / "prepared" / name)
    line = one_line(command(*arguments, "--run", "third", expect=2, cwd=place))
    assert f"{name} must be the file that dataset.json records, of SHA-256 " in line


def test_a_run_does_not_go_on_with_data_that_changed(command, place):
    """Where a hash is recorded the files are compared with it, else what names the data is made of them."""
    write_dataset(place / "prepared")
    for folder, name in (("prepared", "train.bin"), ("data", "val.bin")):
        process = start(place, "run.json", "--run", folder, f"data.path={folder}", "training.steps=100000")
        wait_for_lines(process, place / folder, 9)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        process.communicate()
        before = (place / folder / "log.jsonl").read_bytes()
        flip(place / folder / name)
        line = one_line(command("train", folder, expect=2, cwd=place))
        assert ("must come from the same dataset" if folder == "data" else f"{name} must be the file that") in line
        assert (place / folder / "log.jsonl").read_bytes() == before
