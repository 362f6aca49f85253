"""`lmhead plan` says what training in several processes will send and need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_parallel_training import environment, log_of, tiny
from test_train_command import LMHEAD, write_dataset

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
ROOT = Path(__file__).resolve().parents[2]
MANY = 4096


@pytest.fixture
def folder(tmp_path):
    write_dataset(tmp_path / "data")
    (tmp_path / "config.json").write_text(json.dumps(tiny(tmp_path)))
    return tmp_path


def plan(folder, *arguments, expect=0):
    done = subprocess.run([LMHEAD, "plan", *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    return done.stdout if expect == 0 else done.stderr


def ways_of(folder, *arguments):
    json_ = json.loads(plan(folder, *arguments, "--json"))
    return {(way["parallel.optimizer"], way["parallel.vocabulary"]): way for way in json_["ways"]}, json_


@pytest.mark.parametrize("optimizer, vocabulary", [("replicated", "off"), ("sharded", "off"), ("replicated", "on"), ("sharded", "on")])
def test_it_counts_what_one_of_4096_processes_sends(folder, optimizer, vocabulary):
    changes = {"data.batch_size": MANY, "model.vocab_size": MANY + 3, "parallel": {"optimizer": optimizer, "vocabulary": vocabulary}}
    (folder / "many.json").write_text(json.dumps(tiny(folder, changes, steps=2, validate_every=0)))
    command = [sys.executable, Path(__file__).with_name("fake_group.py"), str(MANY), "many.json", "--run-folder", "run"]
    done = subprocess.run(command, cwd=folder, env=environment(0, 1, 0), capture_output=True, text=True)
    # At the end a checkpoint needs rows of the others, of which there are none.
    assert done.returncode == 0 or "is invalid for input of size" in done.stderr, done.stderr
    ways, _ = ways_of(folder, "many.json", "--processes", MANY, "--link", "10,5", "--rate", "1")
    assert log_of(folder / "run")[0]["exchange_bytes"] == round(ways[optimizer, vocabulary]["exchange_bytes"])


def test_a_step_is_its_products_and_what_is_sent(folder):
    ways, json_ = ways_of(folder, "config.json", "--processes", 4, "--link", "2,100", "--rate", "0.001")
    assert json_["processes"] == 4 and json_["tokens_per_step"] == 8 * 16 and json_["vocab_size"] == 64
    plain = ways["replicated", "off"]
    assert plain["product_seconds"] == pytest.approx(json_["flops_per_token"] * json_["tokens_per_step"] / 4 / 1e9)
    # A ring of four: 3 hops a gather, 6 a sum; here one bucket.
    seconds = {sent["what"]: sent["bytes"] / 2e9 + sent["messages"] * (6 if sent["what"] == "gradients" else 3) * 1e-4 for sent in plain["sent"]}
    assert plain["exchange_seconds"] == pytest.approx(sum(seconds.values()))
    gradients, = [sent for sent in plain["sent"] if sent["what"] == "gradients"]
    assert gradients["bytes"] == 2 * 3 / 4 * 4 * json_["parameters"]
    hidden = min(seconds["gradients"], plain["product_seconds"] * 2 / 3)
    assert plain["step_seconds"] == pytest.approx(plain["product_seconds"] + plain["exchange_seconds"] - hidden)
    # Rows of the optimiser's state lie in four processes; and of embedding and head with everything that belongs to them.
    sharded, words = ways["sharded", "off"], ways["sharded", "on"]
    assert sharded["memory_bytes"]["optimizer"] == pytest.approx(plain["memory_bytes"]["optimizer"] / 4, rel=0.1)
    assert words["memory_bytes"]["values"] == pytest.approx(plain["memory_bytes"]["values"] - 2 * 3 / 4 * 4 * 64 * 16)
    ways, _ = ways_of(folder, "config.json", "model.tie_word_embeddings=true", "--processes", 4, "--link", "2,100", "--rate", "0.001")
    tied, tied_words = ways["replicated", "off"]["memory_bytes"]["values"], ways["replicated", "on"]["memory_bytes"]["values"]
    assert tied_words == pytest.approx(tied - 3 / 4 * 4 * 64 * 16)


def test_the_fastest_way_that_fits_is_chosen(folder):
    (folder / "large.json").write_text(json.dumps(tiny(folder, {"model.hidden_size": 256, "model.vocab_size": 32768})))
    arguments = ["large.json", "--processes", 4, "--link", "1,1", "--rate", "10"]
    ways, json_ = ways_of(folder, *arguments)
    chosen = json_["ways"][json_["choice"]]
    assert chosen["parallel.vocabulary"] == "on"  # 128 tokens a step are sent and not 32,768 rows
    assert min(way["step_seconds"] for way in ways.values()) >= chosen["step_seconds"] / 1.05
    peaks = sorted(way["memory_bytes"]["peak"] for way in ways.values())
    ways, json_ = ways_of(folder, *arguments, "--memory", (peaks[0] + 1) / 2**30)
    assert [way["fits"] for way in ways.values()].count(True) == 1 and json_["ways"][json_["choice"]]["memory_bytes"]["peak"] == peaks[0]
    assert "no way fits in" in plan(folder, *arguments, "--memory", (peaks[0] - 1) / 2**30)
    assert "choice: parallel.optimizer=sharded parallel.vocabulary=on\n" in plan(folder, *arguments, "--memory", (peaks[0] + 1) / 2**30)


def test_one_process_sends_nothing_and_needs_no_link(folder):
    table = plan(folder, "config.json")
    assert table.startswith("config.json: 1 process, ") and "sent by" not in table and "choice" not in table
    ways, _ = ways_of(folder, "config.json", "--rate", "1")
    assert list(ways) == [("replicated", "off")] and ways["replicated", "off"]["exchange_bytes"] == 0


def test_the_table_says_why_words_are_not_shared_out(folder):
    table = plan(folder, "config.json", "head.center_rows=true", "--processes", 2, "--link", "1,10", "--rate", "1")
    assert "words cannot be shared out: the head must be one linear map, whose rows nothing else looks at" in table
    ways, _ = ways_of(folder, "config.json", "data.batch_size=100", "--processes", 100, "--link", "1,10", "--rate", "1")
    assert ways["sharded", "on"]["cannot_be"] == "the vocabulary must have a word for each of the 100 processes with parallel.vocabulary on, got 64"
    ways, _ = ways_of(folder, "config.json", "observe.downstream.every=5", "--processes", 2, "--link", "1,10", "--rate", "1")
    assert ways["replicated", "on"]["cannot_be"].startswith("observe.downstream.every must be 0")


def test_mistakes_are_one_line(folder):
    assert plan(folder, "config.json", "--processes", 2, expect=2) == "[plan] --link must say GB/s,us for more than one process, got none\n"
    assert plan(folder, "config.json", "--processes", 2, "--link", "0,1", expect=2) == "[plan] --link must be of more than 0 GB/s, got 0\n"
    assert "[train] a micro-batch must have a sequence for each of the 9 processes, got 8" in plan(
        folder, "config.json", "--processes", 9, "--link", "1,1", "--rate", "1", expect=2)
    assert plan(folder, "nowhere.json", expect=2).count("\n") == 1
    for wrong in (["--processes", "0"], ["--link", "1"], ["--link", "1,x"], ["--rate", "-1"]):
        assert plan(folder, "config.json", *wrong, expect=2).startswith("[lmhead] ")


def test_the_worked_example_of_the_documentation(tmp_path):
    ways, json_ = ways_of(ROOT, "examples/ladder_2b.json", "--processes", 8, "--link", "50,5", "--rate", "400", "--memory", "75")
    assert json_["parameters"] == pytest.approx(2.03e9, rel=0.01) and all(way["fits"] for way in ways.values())
