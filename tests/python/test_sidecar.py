"""dataset.json as the programs in Python read it: `prepare` and `evaluate --requests` alike."""

import json
import os

import pytest
from lmhead.command import RequestError
from lmhead.sidecar import KEYS, read_sidecar

WHOLE = {"format": "lmhead-dataset", "version": 1, **dict.fromkeys(KEYS)}
BROKEN = {
    "no JSON": "{", "no UTF-8": b"\xff", "deep": "[" * 100_000, "a list": "[]", "a text": '"tokenizer"',
    "another format": json.dumps(WHOLE | {"format": "other"}), "another version": json.dumps(WHOLE | {"version": 2}),
    "a missing key": json.dumps({key: value for key, value in WHOLE.items() if key != "tokenizer"}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_sidecar_is_refused_in_one_line(tmp_path, case):
    text = BROKEN[case]
    (tmp_path / "dataset.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError) as error:
        read_sidecar(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_one_and_a_pipe_are_refused(tmp_path):
    with pytest.raises(RequestError, match="dataset.json that can be read"):
        read_sidecar(tmp_path)
    os.mkfifo(tmp_path / "dataset.json")
    with pytest.raises(RequestError, match="dataset.json that can be read"):
        read_sidecar(tmp_path)


def test_a_whole_one_is_read(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(WHOLE))
    assert read_sidecar(tmp_path) == WHOLE
