"""lmhead study as processes: several runs at once, kills, Ctrl-C, rows of another machine; and the document of a study."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from test_train_command import LMHEAD, write_dataset

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
CLOCKS = ("wall_seconds", "measure_seconds", "tokens_per_second")


def study(steps=12):
    return {
        "name": "tiny",
        "description": "Whether rank 2 costs anything.",
        "source": {
            "paper": "arXiv 0000.00000",
            "claim": "It does.",
            "reported": [{"arm": "rank 2", "difference": 0.5, "interval": [0.1, 0.9]}],
        },
        "base": {
            "data": {"path": "data", "sequence_length": 16, "batch_size": 4, "validation_tokens": 128},
            "model": {
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
            },
            "training": {"steps": steps, "validate_every": 4, "checkpoint_every": 0},
        },
        "arms": [
            {"name": "full"},
            {"name": "rank 2", "set": {"head.type": "low_rank", "head.rank": 2}},
            {
                "name": "wild",
                "search": False,
                "set": {"optimizer.type": "sgd", "optimizer.learning_rate": 1e30, "training.clip_norm": 0},
            },
        ],
        "search": {
            "keys": {"optimizer.learning_rate": {"values": [0.001, 0.002], "factor": 20}},
            "seeds": [100],
            "max_extensions": 1,
        },
        "seeds": [0, 1],
        "comparisons": [{"baseline": "full"}],
        "margin": 0.02,
        "limits": ["Any text but this one."],
    }


@pytest.fixture
def folder(tmp_path):
    write_dataset(tmp_path / "data")
    (tmp_path / "study.json").write_text(json.dumps(study()))
    return tmp_path


def command(*arguments):
    return [LMHEAD, "study", "study.json", "--out", "out", "--jobs", "2", *map(str, arguments)]


def run(folder, *arguments, code=0):
    done = subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def rows_of(file):
    """Rows without clocks, by what they are of."""
    rows = {}
    for line in file.read_text().splitlines():
        row = json.loads(line)
        row = {key: value for key, value in row.items() if key not in CLOCKS}
        row["curve"] = {key: value for key, value in row["curve"].items() if key != "wall_seconds"}
        rows[row["arm"], json.dumps(row["searched"]), row["seed"]] = row
    return rows


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_searches_extends_confirms_and_compares(folder):
    done = run(folder)
    statistics = json.loads((folder / "out" / "statistics.json").read_text())
    full, rank_2, wild = statistics["arms"]
    values = [candidate["value"] for candidate in full["search"][0]["candidates"]]
    assert values == [0.001, 0.002, 0.04]  # the best of the first two was at the upper edge
    assert full["search"][0]["edge"] == "high" and full["searched"] == {"optimizer.learning_rate": 0.04}
    assert full["at_an_edge"] == ["optimizer.learning_rate"]
    assert wild["diverged"] == 2 and wild["mean"] is None
    rows = rows_of(folder / "out" / "rows.jsonl")
    assert len(rows) == 2 * 3 + 3 * 2
    assert {row["phase"] for row in rows.values()} == {"search", "confirm"}
    assert all(len(json.dumps(row)) < 8000 and row["threads"] in (1, None) for row in rows.values())
    text = done.stdout
    assert "at an edge" in text and "the arm diverged on 2 of 2 seeds" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "12/12 runs" in done.stderr
    assert run(folder).stdout == text  # nothing to do, the same figures


def test_a_killed_study_goes_on_and_ends_the_same(folder):
    run(folder)
    whole = rows_of(folder / "out" / "rows.jsonl")
    shutil.rmtree(folder / "out")
    process = subprocess.Popen(command(), cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True)
    rows = folder / "out" / "rows.jsonl"
    wait_for(lambda: rows.is_file() and rows.read_bytes().count(b"\n") >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with rows.open("a") as file:
        file.write('{"study":"tiny","arm":"fu')  # cut short by the kill
    before = rows.read_bytes().count(b"\n")
    assert before < len(whole)
    run(folder)
    assert rows_of(rows) == whole
    assert rows.read_bytes().count(b"\n") == len(whole)  # nothing ran twice


def start_two_runs(folder):
    """A study in a session of its own whose first two runs are going on, and the folder of these."""
    process = subprocess.Popen(
        command("training.validate_every=0"),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    started = folder / "out" / "runs" / "full"
    wait_for(
        lambda: len([log for log in started.rglob("log.jsonl") if log.read_bytes().count(b"\n") > 5]) == 2
    )
    return process, started


def test_ctrl_c_saves_every_run_and_the_study_goes_on(folder):
    (folder / "study.json").write_text(json.dumps(study(steps=3000)))
    process, started = start_two_runs(folder)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with the same command" in said
    states = [json.loads(file.read_text())["state"] for file in started.rglob("summary.json")]
    assert states == ["stopped", "stopped"]
    assert len(list(started.rglob("checkpoints/step-*"))) == 2
    dry = run(folder, "training.validate_every=0", "--dry-run").stdout
    assert dry.count("started  ") == 2 and "training FLOPs to go" in dry


@pytest.mark.parametrize("to_group", [True, False], ids=["group", "parent"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP], ids=lambda sent: sent.name)
def test_other_signals_save_every_run_too(folder, sent, to_group):
    (folder / "study.json").write_text(json.dumps(study(steps=100000)))
    process, started = start_two_runs(folder)
    (os.killpg if to_group else os.kill)(process.pid, sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with the same command" in said
    states = [json.loads(file.read_text())["state"] for file in started.rglob("summary.json")]
    assert states == ["stopped", "stopped"]
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left of it


def test_a_second_study_in_a_folder_is_refused_and_leaves_the_first_alone(folder):
    (folder / "study.json").write_text(json.dumps(study(steps=100000)))
    first = subprocess.Popen(
        command("training.validate_every=0"), cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True
    )
    started = folder / "out" / "runs" / "full"
    wait_for(
        lambda: len([log for log in started.rglob("log.jsonl") if log.read_bytes().count(b"\n") > 5]) == 2
    )
    said = run(folder, "training.validate_every=0", code=2).stderr
    assert said == "[study] out must not be in use, got another process that conducts a study in it\n"
    assert "started  " in run(folder, "training.validate_every=0", "--dry-run").stdout  # looking is free
    assert first.poll() is None
    first.terminate()
    assert first.wait(timeout=60) == 130


def test_children_end_with_a_killed_parent(folder):
    (folder / "study.json").write_text(json.dumps(study(steps=100000)))
    process = subprocess.Popen(
        command("training.validate_every=0"), cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True
    )
    started = folder / "out" / "runs" / "full"
    wait_for(
        lambda: len([log for log in started.rglob("log.jsonl") if log.read_bytes().count(b"\n") > 5]) == 2
    )
    process.kill()
    process.wait()
    wait_for(lambda: len(list(started.rglob("summary.json"))) == 2)
    states = [json.loads(file.read_text())["state"] for file in started.rglob("summary.json")]
    assert states == ["stopped", "stopped"]


def test_rows_of_another_machine_count(folder, tmp_path_factory):
    rows = folder / "rows" / "tiny.jsonl"
    text = run(folder, "--rows", rows, "--discard-runs").stdout
    assert not list((folder / "out").rglob("config.json"))
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(folder / "data", other / "elsewhere")
    shutil.copy(folder / "study.json", other)
    before = rows.read_bytes()
    assert run(other, "data.path=elsewhere", "--rows", rows).stdout == text
    assert rows.read_bytes() == before
    shutil.rmtree(other / "elsewhere")
    assert run(other, "data.path=elsewhere", "--rows", rows, "--statistics-only").stdout == text


def test_a_line_that_is_no_row_ends_in_one_line_that_names_it(folder):
    run(folder)
    rows = folder / "out" / "rows.jsonl"
    lines = rows.read_text().splitlines()
    for number, wrong in enumerate([{"diverged": "no"}, {"outcome": "2"}, {"curve": 1e38}, {"tokens": 1e38}]):
        broken = [*lines]
        broken[number] = json.dumps(json.loads(lines[number]) | wrong)
        rows.write_text("\n".join(broken) + "\n")
        said = run(folder, "--statistics-only", code=2).stderr
        key = next(iter(wrong))
        assert said.count("\n") == 1 and said.startswith(f"[out/rows.jsonl:{number + 1}] {key} must be "), said


def test_rows_that_cannot_be_kept_are_found_out_before_training(folder):
    (folder / "file").write_text("")
    said = run(folder, "--rows", "file/rows.jsonl", code=2).stderr
    assert said.count("\n") == 1 and "file/rows.jsonl must be" in said
    assert not list(folder.rglob("log.jsonl"))


def test_seeds_that_were_searched_on_are_refused(folder):
    wrong = study()
    wrong["search"]["seeds"] = [1]
    (folder / "study.json").write_text(json.dumps(wrong))
    assert "search.seeds must share no seed with seeds" in run(folder, code=2).stderr
    assert not (folder / "out").exists()


def test_the_document_says_what_the_statistics_say_and_is_reproducible(folder, capsys, monkeypatch):
    from lmhead.study import command as study_document
    from lmhead.study import statistics as native

    run(folder, "--rows", "rows.jsonl", "--discard-runs")
    statistics = json.loads((folder / "out" / "statistics.json").read_text())
    monkeypatch.chdir(folder)
    monkeypatch.setattr(native, "native_command", lambda: str(LMHEAD))
    texts = []
    for _ in range(2):
        assert study_document.main(["study.json", "--rows", "rows.jsonl", "--out", "results/tiny.md"]) == 0
        texts.append([file.read_bytes() for file in sorted((folder / "results").iterdir())])
    assert texts[0] == texts[1] and len(texts[0]) == 3
    text = (folder / "results" / "tiny.md").read_text()
    compared = statistics["comparisons"][0]
    assert compared["verdict"] in text and compared["source"]["words"] in text
    assert f"{statistics['arms'][0]['mean']:.4f}" in text
    assert "Any text but this one." in text and "+0.500 [0.100, 0.900]" in text
    assert statistics["configuration"] in text
    assert "lmhead study study.json --rows rows.jsonl" in text
    assert not re.search(r"\d{4}-\d\d-\d\d", text)
    assert study_document.main(["study.json", "--rows", "nowhere.jsonl"]) == 2
    assert "must be a file or a folder" in capsys.readouterr().err
