"""Every file in studies/, end to end in seconds: it is accepted as it is, and small all its arms run and compare.

The small studies are made from the files by the rules below and keep what makes an arm an arm: heads, rules on
gradients, optimisers, widths. `make study-smoke` runs this file alone.
"""

import copy
import itertools
import json
import os
import random
import subprocess

import pytest
from conftest import ROOT
from lmhead.prepare import command as prepare
from test_train_command import LMHEAD

from lmhead.study import command as study_document

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
ALIKE = {"backward_only_bpe", "backward_only_tuned_head", "whitened_backward_bytes", "whitened_longer_bpe", "whitened_longer_bytes", "whitened_vocabulary"}
FILES = sorted(file for file in (ROOT / "studies").glob("*.json") if file.stem != "demo")

LARGEST = {
    "data.sequence_length": 32,
    "data.batch_size": 4,  # 128 tokens: twice the width must leave some of a spectrum
    "data.validation_tokens": 128,
    "data.spamlang.vocab_size": 512,
    "model.vocab_size": 512,
    "model.num_hidden_layers": 2,  # a rule may stand between the last two
    "model.intermediate_size": 32,
    "schedule.warmup_steps": 1,
    "training.steps": 4,
    "training.validate_every": 2,
}


def capped(path, value):
    """A value of a configuration, or everything below it, at most as large as `LARGEST` says."""
    if isinstance(value, dict):
        return {key: capped(f"{path}.{key}" if path else key, below) for key, below in value.items()}
    return min(value, LARGEST[path]) if path in LARGEST else value


def value_at(configuration, path):
    for key in path.split("."):
        configuration = configuration[int(key) if isinstance(configuration, list) else key]
    return configuration


def with_one_value(search, base):
    """One value a key, the configuration's own if possible, so that runs are shared; one seed, no extension."""
    for path, key in search.get("keys", {}).items():
        own = value_at(base, path)
        key["values"] = [own if own in key["values"] else sorted(key["values"])[len(key["values"]) // 2]]
    if "seeds" in search:
        search["seeds"] = search["seeds"][:1]
    search["max_extensions"] = 0


def reduced(study):
    """The study with all its arms, in seconds."""
    small = copy.deepcopy(study)
    small["base"] = capped("", small["base"])
    for arm in small.get("arms", []):
        arm["set"] = {path: capped(path, value) for path, value in arm.get("set", {}).items()}
    places = []
    for path, values in small.get("grid", {}).items():
        if isinstance(values[0], dict):  # places with names
            for place in values:
                place["set"] = {key: capped(key, value) for key, value in place["set"].items()}
            places += values
        else:
            small["grid"][path] = list(dict.fromkeys(capped(path, value) for value in values))
    for search in [small.get("search"), *(one.get("search") for one in [*small.get("arms", []), *places])]:
        if search:
            with_one_value(search, small["base"])
    small["seeds"] = small["seeds"][:2]
    for correlation in small.get("correlations", []):
        correlation["at_step"] = min(correlation["at_step"], 2)
    return small


def paths_of(study):
    """Every dataset that a study reads."""
    grid = study.get("grid", {})
    paths = {study["base"]["data"].get("path"), *grid.get("data.path", [])}
    paths |= {place["set"].get("data.path") for values in grid.values() for place in values if isinstance(place, dict)}
    return {path for path in paths | {arm.get("set", {}).get("data.path") for arm in study["arms"]} if path}


def write_requests(study, folder):
    """The first documents of every task that confirmation runs are asked whose answers are shorter than a sequence."""
    path = study.get("confirm", {}).get("observe.downstream.requests")
    if not path:
        return
    requests = json.loads((ROOT / path).read_text())
    for task in requests["tasks"]:
        short = (
            document for document in task["documents"]
            if max(len(continuation) for _, continuation in document["requests"]) < LARGEST["data.sequence_length"]
        )  # fmt: skip
        task["documents"] = list(itertools.islice(short, 3))
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(json.dumps(requests))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Two datasets of a few thousand tokens: bytes, and a byte-level BPE of 300."""
    folder = tmp_path_factory.mktemp("tiny_data")
    (folder / "text").mkdir()
    draw = random.Random(0)
    for index in range(60):
        words = ("".join(draw.choices("etaoinsh", k=draw.randrange(1, 6))) for _ in range(60))
        (folder / "text" / f"{index}.txt").write_text(" ".join(words) + ".\n")
    for name, kind in (("bytes", ["--bytes"]), ("bpe", ["--vocab-size", "300"])):
        assert prepare.main([str(folder / name), str(folder / "text"), *kind, "--validation-fraction", "0.3"]) == 0
    return folder


def lmhead_study(folder, *arguments):
    command = [LMHEAD, "study", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def check(study, folder, tiny_data, monkeypatch):
    """As it is it passes a dry run; reduced, every arm runs on every seed and every question has an answer."""
    name = study["name"]
    for path in paths_of(study):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tiny_data / ("bytes" if path == "data/bytes" else "bpe"))
    write_requests(study, folder)
    (folder / "whole.json").write_text(json.dumps(study))
    dry = lmhead_study(folder, "whole.json", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "of unknown cost" not in dry.stdout

    (folder / f"{name}.json").write_text(json.dumps(reduced(study)))
    files = ["--rows", "rows.jsonl"]
    done = lmhead_study(folder, f"{name}.json", *files, "--out", "out", "--jobs", "2", "--discard-runs")
    assert done.returncode == 0, done.stderr
    statistics = json.loads((folder / "out" / "statistics.json").read_text())
    assert {arm["choice"] for arm in statistics["arms"]} == {arm["name"] for arm in study["arms"]}
    for arm in statistics["arms"]:
        assert arm["missing"] == 0 and arm["diverged"] == 0 and arm["search_finished"], arm["arm"]
    compared = {(one["baseline"], one["arm"]) for one in statistics["comparisons"]}
    assert len(compared) == len(statistics["comparisons"]) and bool(compared) == ("comparisons" in study)
    for one in statistics["comparisons"]:
        assert one["finding"] and one["verdict"] and len(one["seeds"]) == 2, one
    asked = [name for correlation in study.get("correlations", []) for name in correlation["predictors"]]
    assert [one["predictor"] for one in statistics["correlations"]] == asked
    for one in statistics["correlations"]:
        assert one["verdict"] and one["left_out"] == 0 and one["rho"] is not None, one

    monkeypatch.chdir(folder)
    assert study_document.main([f"{name}.json", *files, "--out", f"results/{name}.md"]) == 0
    text = (folder / "results" / f"{name}.md").read_text()
    for one in statistics["comparisons"] + statistics["correlations"]:
        assert one["verdict"] in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_study_runs_end_to_end(file, tmp_path, tiny_data, monkeypatch):
    study = json.loads(file.read_text())
    assert study["name"] == file.stem
    if file.stem in ALIKE and not os.environ.get("LMHEAD_SLOW_TESTS"):  # what they run others run too
        dry = lmhead_study(tmp_path, file, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        return
    check(study, tmp_path, tiny_data, monkeypatch)


@pytest.mark.parametrize("file", sorted((ROOT / "studies" / "large").glob("*.json")), ids=lambda file: file.stem)
def test_a_study_for_larger_machines_is_accepted(file, tmp_path):
    dry = lmhead_study(tmp_path, file, "--dry-run")
    assert dry.returncode == 0, dry.stderr


def test_reducing_keeps_what_an_arm_is():
    for file in FILES:
        study = json.loads(file.read_text())
        for before, after in zip(study["arms"], reduced(study)["arms"], strict=True):
            changed = {path for path in before["set"] if before["set"][path] != after["set"][path]}
            assert changed <= LARGEST.keys(), (file.stem, before["name"])


@pytest.mark.parametrize(
    "path, value",
    [
        ("head_gradient.hiden", {"rule": "top_subspace", "rank": 8}),  # no such key
        ("head_gradient.hidden", {"rule": "top_subspaces", "rank": 8}),  # no such rule
        ("head", {"type": "low_rank", "rank": 4096}),  # above the width, which only a run knows
        ("optimizer.learning_rat", 0.1),
    ],
)
def test_a_bad_arm_fails(path, value, tmp_path, tiny_data, monkeypatch):
    study = json.loads((ROOT / "studies" / "backward_only.json").read_text())
    study["arms"] = [study["arms"][0], {"name": "bad", "set": {path: value}}]
    del study["source"]
    with pytest.raises(AssertionError):
        check(study, tmp_path, tiny_data, monkeypatch)


@pytest.mark.skipif(not (ROOT / ".venv/bin/lmhead").exists(), reason="the command is not installed")
def test_a_study_goes_from_a_folder_of_text_to_its_document(tiny_data, tmp_path):
    """scripts/study with a text of one's own, in a copy of what it needs of the repository."""
    for folder in ("scripts", "studies"):
        (tmp_path / folder).mkdir()
    script = tmp_path / "scripts" / "study"
    script.write_bytes((ROOT / "scripts" / "study").read_bytes())
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    study = reduced(json.loads((ROOT / "studies" / "head_update.json").read_text()))
    (tmp_path / "studies" / "head_update.json").write_text(json.dumps(study))
    run = ["bash", script, "head_update", tiny_data / "text"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "runs").glob("text-*")
    rows = [json.loads(line) for line in (out / "rows" / "head_update.jsonl").read_text().splitlines()]
    assert {row["arm"] for row in rows} == {arm["name"] for arm in study["arms"]}
    document = (out / "results" / "head_update.md").read_text()
    assert "Unfinished" not in document and str(tmp_path) not in document
    assert not (tmp_path / "docs").exists()
    wrong = subprocess.run(["bash", script, "head_updates"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "NAME must be one of: head_update" in wrong.stderr
