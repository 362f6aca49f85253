"""Files that an enemy, or an accident, may have made: every verb ends at once, with exit code 2 and one line that names them."""

import json
import os
import shutil
import socket

import pytest
from measure_fixtures import checkpoint, command  # noqa: F401
from test_train_command import configuration, write_dataset

DEEP = "[" * 100_000 + "]" * 100_000
DEEP_OBJECT = '{"a":' * 100_000 + "0" + "}" * 100_000


@pytest.fixture
def place(tmp_path, checkpoint):
    """A dataset, a configuration, a run's folder that has not begun, a pretrained folder."""
    write_dataset(tmp_path / "data")
    (tmp_path / "run.json").write_text(json.dumps(configuration(tmp_path)))
    shutil.copytree(checkpoint, tmp_path / "model")
    return tmp_path


def one_line(done):
    assert not done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("["), done.stderr
    assert all(character.isprintable() for character in lines[0]), repr(lines[0])
    return lines[0]


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# What is done to the place, the command then, and what its line says.
DEEP_FILES = {
    "train": (lambda place: (place / "run.json").write_text(DEEP), "train run.json", "run.json"),
    "train, object": (lambda place: (place / "run.json").write_text(DEEP_OBJECT), "train run.json", "run.json"),
    "study": (lambda place: (place / "study.json").write_text(DEEP_OBJECT), "study study.json", "study.json"),
    "dataset": (lambda place: (place / "data" / "dataset.json").write_text(DEEP), "train run.json", "dataset.json"),
    "inspect": (lambda place: (place / "model" / "config.json").write_text(DEEP_OBJECT), "inspect model", "config.json"),
    "measure": (lambda place: (place / "model" / "config.json").write_text(DEEP), "measure model --tokens data/train.bin",
                "config.json"),
    "ends": (lambda place: (place / "model" / "generation_config.json").write_text(DEEP),
             "sample model --prompt-ids 1", "generation_config.json"),
    "sidecar": (lambda place: (place / "data" / "dataset.json").write_text(DEEP), "measure model --tokens data/train.bin",
                "dataset.json"),
}


@pytest.mark.parametrize("case", DEEP_FILES)
def test_json_nested_without_end_is_refused(command, place, case):
    spoil, arguments, name = DEEP_FILES[case]
    spoil(place)
    message = one_line(command(*arguments.split(), expect=2, cwd=place))
    assert name in message and "must be nested at most 100 deep" in message


SPECIAL = {"a pipe": lambda path: os.mkfifo(path), "a device": lambda path: path.symlink_to("/dev/zero"),
           "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_refused_without_waiting(command, place, kind, monkeypatch):
    monkeypatch.chdir(place)  # names of sockets are short
    for name, arguments in {"special": "train special", "special.json": "study special.json",
                            "ids.bin": "measure model --tokens ids.bin", "it.safetensors": "inspect it.safetensors",
                            "model/generation_config.json": "sample model --prompt-ids 1"}.items():
        (place / name).unlink(missing_ok=True)
        SPECIAL[kind](place / name)
        assert f"{name} must be a file, got {kind}" in one_line(command(*arguments.split(), expect=2, cwd=place)), name


SIZES = {
    "model.hidden_size=1000000000": "model.hidden_size must be an integer of at least 1 and at most 1048576",
    "model.hidden_size=9223372036854775807": "model.hidden_size must be an integer",
    "model.num_hidden_layers=100000000": "model.num_hidden_layers must be",
    "model.intermediate_size=4611686018427387904": "model.intermediate_size must be",
    "model.vocab_size=4294967296": "model.vocab_size must be",
    "model.num_attention_heads=4294967296": "model.num_attention_heads must be",
    "model.head_dim=4611686018427387904": "model.head_dim must be",
    "data.path=\udcff": "an override must be UTF-8, got",
}


@pytest.mark.parametrize("override", SIZES)
def test_sizes_beyond_any_model_are_refused_by_their_key(command, place, override):
    assert SIZES[override] in one_line(command("train", "run.json", override, expect=2, cwd=place))


@pytest.mark.parametrize("overrides", [
    ("model.hidden_size=1048576", "model.num_hidden_layers=4096", "model.num_attention_heads=1024"),
    ("data.batch_size=16777216", "data.sequence_length=512"),
    ("model.hidden_size=1048576", "model.num_attention_heads=1048576", "model.head_dim=1048576"),
    ("head.type=expanded", "head.width=16777216", "model.vocab_size=1048576"),
])
def test_a_run_that_memory_cannot_hold_is_refused_before_it_begins(command, place, overrides):
    message = one_line(command("train", "run.json", *overrides, expect=2, cwd=place))
    assert message.startswith("[train] memory must hold ") and " of activations for " in message and ", at least " in message
    assert not list(place.glob("runs/*/log.jsonl"))


MODELS = {  # sizes of config.json that disagree with the tensors, or with each other
    "larger": (dict(vocab_size=2_000_000_000), "must have shape [2000000000, 32], got [320, 32]"),
    "wider": (dict(hidden_size=2_000_000_000), "must have shape [320, 2000000000], got [320, 32]"),
    "deeper": (dict(num_hidden_layers=4096), "model.layers.2."),
    "too deep": (dict(num_hidden_layers=1_000_000), "num_hidden_layers must be at most 4096"),
    "heads": (dict(num_attention_heads=2_000_000_000, head_dim=1_000_000), "q_proj.weight\" must have shape"),
    "inner": (dict(intermediate_size=2_000_000_000), "gate_proj.weight\" must have shape [2000000000, 32], got [48, 32]"),
    "overflow": (dict(hidden_size=9_223_372_036_854_775_808), "hidden_size must be an integer from 1 to 2147483647"),
    "negative": (dict(intermediate_size=-1), "intermediate_size must be an integer"),
    "ends": (dict(eos_token_id="</s>"), "eos_token_id must be an integer"),
    "positions": (dict(max_position_embeddings=-5), "max_position_embeddings must be an integer"),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("verb", ["measure model --tokens data/train.bin", "sample model --prompt-ids 1"])
def test_sizes_that_are_not_those_of_the_tensors_are_refused_before_they_are_used(command, place, case, verb):
    changes, message = MODELS[case]
    edit(place / "model" / "config.json", **changes)
    assert message in one_line(command(*verb.split(), expect=2, cwd=place))


def test_names_never_reach_the_terminal_as_control_characters(command, place):
    evil = "\x1b]0;owned\x07\x9b31m\u202egnp"
    for verb in ("train", "study", "measure", "inspect", "sample", "export", "no-such-verb"):
        arguments = {"sample": ("--prompt-ids", "1"), "export": ("out",)}.get(verb, ())
        first = (verb + evil,) if verb == "no-such-verb" else (verb, evil)
        one_line(command(*first, *arguments, expect=2, cwd=place))
    shutil.copytree(place / "model", place / evil)
    edit(place / evil / "config.json", **{"\x1b[2J": "\x1b[31m"})
    for arguments in (("inspect", evil), ("inspect", evil, "--json"),
                      ("measure", evil, "--tokens", "data/train.bin", "--max-tokens", 64, "--only", "quality")):
        done = command(*arguments, cwd=place)
        text = (done.stdout + done.stderr).replace("\n", "")
        assert "gnp" in text and text.isprintable(), repr(text)
