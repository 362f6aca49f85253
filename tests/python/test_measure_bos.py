"""Where the beginning-of-text token stands: lmhead measure --bos against windows cut here."""

import json

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
from measure_fixtures import TEXTS, checkpoint, command, refused, text_files  # noqa: E402, F401

LENGTH = 16


def mean_loss(folder, windows):
    """Over all targets of windows (inputs, targets), by transformers in float64."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    losses = []
    for inputs, targets in windows:
        with torch.no_grad():
            logits = model(torch.tensor([inputs])).logits[0].double()
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="none"))
    return float(torch.cat(losses).mean())


def consecutive(ids):
    return [(ids[at:at + LENGTH + 1][:-1], ids[at:at + LENGTH + 1][1:]) for at in range(0, len(ids) - 1, LENGTH)]


def opened(ids, token):
    pieces = [ids[at:at + LENGTH] for at in range(0, len(ids), LENGTH)]
    return [([token, *piece[:-1]], piece) for piece in pieces]


def measured(command, tmp_path, *arguments):
    command("measure", *arguments, "--only", "quality", "--sequence-length", LENGTH, "--json", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    return result, result["models"][0]


def test_every_place_of_the_token(command, checkpoint, text_files, tmp_path):
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    expected = {"none": [window for ids in plain for window in consecutive(ids)],
                "first": [window for ids in plain for window in consecutive([0, *ids])],
                "every-window": [window for ids in plain for window in opened(ids, 0)]}
    size = sum(len(text.encode()) for text in TEXTS)
    for where, windows in expected.items():
        result, got = measured(command, tmp_path, checkpoint, "--bos", where, "--text", *text_files)
        assert result["bos"] == where and got.get("beginning") == (None if where == "none" else 0)
        assert got["tokens"] == sum(len(targets) for _, targets in windows)
        assert got["quality"]["loss"] == pytest.approx(mean_loss(checkpoint, windows), abs=1e-5), where
        if where != "none":  # every byte is scored
            assert got["quality"]["bits_per_byte"] == pytest.approx(
                got["quality"]["loss"] * got["tokens"] / np.log(2) / size, rel=1e-6)
    result, first = measured(command, tmp_path, checkpoint, "--bos", "first", "--text", *text_files)
    result, default = measured(command, tmp_path, checkpoint, "--text", *text_files)
    assert result["bos"] is None and default["quality"] == first["quality"]
    _, some = measured(command, tmp_path, checkpoint, "--bos", "every-window", "--max-tokens", 20, "--text", *text_files)
    assert some["tokens"] == 20


def test_a_tokenizer_that_adds_none_takes_the_configurations(command, checkpoint, text_files, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    config = json.loads((checkpoint / "config.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    described = json.loads(tokenizer.to_str())
    described["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(described))
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 5}))
    ids = tokenizer.encode(TEXTS[0], add_special_tokens=False).ids
    _, got = measured(command, tmp_path, folder, "--bos", "first", "--text", text_files[0])
    assert got["beginning"] == 5
    assert got["quality"]["loss"] == pytest.approx(mean_loss(folder, consecutive([5, *ids])), abs=1e-5)
    _, got = measured(command, tmp_path, folder, "--text", text_files[0])
    assert got["tokens"] == len(ids) - 1 and "beginning" not in got

    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 1 << 20}))
    for where in ("first", "every-window"):
        assert "below the head's 320" in refused(command, folder, "--bos", where, "--text", text_files[0])
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": None}))
    assert "must have a beginning-of-text token" in refused(command, folder, "--bos", "first", "--text", text_files[0])


def test_what_has_no_text_has_no_place(command, checkpoint, tmp_path):
    np.arange(9, dtype="<u2").tofile(tmp_path / "ids.bin")
    assert "requires --text" in refused(command, checkpoint, "--bos", "none", "--tokens", tmp_path / "ids.bin")
    assert "--bos" in refused(command, checkpoint, "--bos", "last", "--text", "x")
