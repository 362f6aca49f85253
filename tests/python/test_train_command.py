"""lmhead train as a process: kills, signals, second users, mistakes; what is on disk and said then."""

import array
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

LMHEAD = Path(__file__).resolve().parents[2] / "build" / "release" / "bin" / "lmhead"
pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
CLOCKS = ("tokens_per_second", "wall_seconds", "measure_seconds")


def write_dataset(folder, tokenizer_hash="bytes", content_hash="content"):
    """Noisy repetitions over 64 ids."""
    folder.mkdir(exist_ok=True)
    splits = {}
    for split, count in (("train", 6000), ("validation", 600)):
        draw = random.Random(split)
        ids = [1]
        while len(ids) < count:
            ids.append(draw.randrange(64) if draw.random() < 0.2 else (ids[-1] * 5 + 3) % 64)
        (folder / f"{split}.bin").write_bytes(array.array("H", ids).tobytes())
        splits[split] = {"file": f"{split}.bin", "tokens": count, "bytes": 2 * count, "documents": 1,
                         "sha256": hashlib.sha256((folder / f"{split}.bin").read_bytes()).hexdigest()}
    (folder / "dataset.json").write_text(json.dumps({
        "format": "lmhead-dataset", "version": 1, "vocab_size": 64, "token_type": "uint16", "tokenizer": None,
        "tokenizer_hash": tokenizer_hash, "end_of_document": None, "splits": splits,
        "content_hash": content_hash}))


def configuration(folder, **training):
    """Forty steps of some milliseconds; checkpoints at 7, 14, ..., which divides neither 17 nor 40."""
    return {"data": {"path": str(folder / "data"), "sequence_length": 64, "batch_size": 8,
                     "validation_tokens": 512},
            "model": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
            "optimizer": {"learning_rate": 0.01},
            "training": {"steps": 40, "threads": 1, "validate_every": 10, "checkpoint_every": 7, **training}}


@pytest.fixture
def folder(tmp_path):
    write_dataset(tmp_path / "data")
    (tmp_path / "config.json").write_text(json.dumps(configuration(tmp_path)))
    return tmp_path


def start(folder, *arguments):
    return subprocess.Popen([LMHEAD, "train", *map(str, arguments)], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def train(folder, *arguments):
    process = start(folder, *arguments)
    process.stdout_text, process.stderr_text = process.communicate(timeout=120)
    return process


def wait_for_lines(process, run, count):
    """Returns once the log has `count` lines; the process may be a few lines further."""
    log = run / "log.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.0005)
    raise AssertionError(f"no {count} lines before the end: {process.communicate()[1]}")


def figures(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def assert_same_run(left, right):
    assert figures(left) == figures(right)
    names = sorted(path.name for path in (left / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (right / "checkpoints").iterdir())
    assert "step-00000040" in names
    for name in names:
        if name != "best.json":
            for file in ("model.safetensors", "optimizer.safetensors"):
                mine, theirs = (run / "checkpoints" / name / file for run in (left, right))
                assert mine.read_bytes() == theirs.read_bytes()


def assert_refused(process, *parts):
    """Exit code 2 and one line on stderr that has every part."""
    assert process.returncode == 2, process.stderr_text
    assert process.stderr_text.count("\n") == 1 and process.stderr_text.startswith("["), process.stderr_text
    for part in parts:
        assert part in process.stderr_text
    assert process.stdout_text == ""


@pytest.mark.parametrize("overrides", [
    ["training.precision=float32", "optimizer.type=adamw", "data.micro_batches=2"],
    ["training.precision=bfloat16", "optimizer.type=muon", "data.micro_batches=1"],
    ["head.type=low_rank", "head.rank=4", "observe.gradient_retention.every=5"]])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(folder, overrides):
    whole = train(folder, "config.json", "--run", "whole", *overrides)
    assert whole.returncode == 0, whole.stderr_text
    process = start(folder, "config.json", "--run", "killed", *overrides)
    wait_for_lines(process, folder / "killed", 17)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    logged = len(figures(folder / "killed"))
    assert 17 <= logged < 40 and not (folder / "killed" / "summary.json").exists()

    rest = train(folder, "killed")
    assert rest.returncode == 0, rest.stderr_text
    first = int(rest.stderr_text.split("going on after step ")[1].split()[0])
    assert 14 <= first <= logged + 1 and (first % 7 == 0 or first % 10 == 0)
    assert_same_run(folder / "whole", folder / "killed")
    summaries = [json.loads((folder / run / "summary.json").read_text()) for run in ("whole", "killed")]
    for key in ("state", "steps", "tokens", "best", "parameters", "head_singular_values"):
        assert summaries[0].get(key) == summaries[1].get(key)


def test_killed_again_and_again_it_still_arrives_at_the_same_place(folder):
    assert train(folder, "config.json", "--run", "whole").returncode == 0
    for lines in (3, 11, 23, 36):
        process = start(folder, "config.json", "--run", "killed")
        wait_for_lines(process, folder / "killed", lines)
        process.kill()
        process.communicate()
    assert train(folder, "config.json", "--run", "killed").returncode == 0
    assert_same_run(folder / "whole", folder / "killed")


def test_going_on_with_other_threads_is_told(folder, monkeypatch):
    (folder / "config.json").write_text(json.dumps(configuration(folder, threads=None)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process = start(folder, "config.json", "--run", "moved")
    wait_for_lines(process, folder / "moved", 12)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rest = train(folder, "moved")
    assert rest.returncode == 0
    told = "its checkpoint was written with 1 thread and this is 2: the rest will differ in its last digits\n"
    assert told in rest.stderr_text


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_saves_and_says_how_to_go_on(folder, stop):
    assert train(folder, "config.json", "--run", "whole").returncode == 0
    process = start(folder, "config.json", "--run", "stopped")
    wait_for_lines(process, folder / "stopped", 12)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "stopped and saved; go on with: lmhead train stopped"
    done = len(figures(folder / "stopped"))
    assert (folder / "stopped" / "checkpoints" / f"step-{done:08d}" / "state.json").exists()
    assert json.loads((folder / "stopped" / "summary.json").read_text())["state"] == "stopped"

    rest = train(folder, "stopped")
    assert rest.returncode == 0 and f"going on after step {done}\n" in rest.stderr_text
    assert figures(folder / "whole") == figures(folder / "stopped")
    for file in ("model.safetensors", "optimizer.safetensors"):
        last = Path("checkpoints") / "step-00000040" / file
        assert (folder / "whole" / last).read_bytes() == (folder / "stopped" / last).read_bytes()


def test_the_last_line_says_what_observers_cost(folder):
    process = train(folder, "config.json", "training.steps=4", "observe.gradient_retention.every=1", "--run", "run")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    share = f"{100 * summary['measure_seconds'] / summary['wall_seconds']:.1f}"
    assert process.stdout_text.endswith(f" tokens/s, {share} % more time for observers\n"), process.stdout_text


def test_a_finished_run_is_left_alone(folder):
    assert train(folder, "config.json", "--run", "run").returncode == 0
    before = (folder / "run" / "log.jsonl").stat().st_mtime_ns
    again = train(folder, "config.json", "--run", "run")
    assert again.returncode == 0 and again.stdout_text == "run is finished already\n"
    assert (folder / "run" / "log.jsonl").stat().st_mtime_ns == before


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(folder):
    process = train(folder, "config.json", "--run", "run", "optimizer.type=sgd", "schedule.warmup_steps=0",
                    "optimizer.learning_rate=1e30", "training.clip_norm=0", "training.checkpoint_every=1")
    assert process.returncode == 1
    last = process.stderr_text.splitlines()[-1]
    assert last.startswith("[train] ") and "must be finite" in last
    assert "at step 2; the checkpoint of step 1 is kept" in last
    assert (folder / "run" / "checkpoints" / "step-00000001" / "model.safetensors").exists()
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["state"] == "failed" and "must be finite" in summary["error"]


def test_another_configuration_in_the_folder_is_refused_by_key(folder):
    assert train(folder, "config.json", "--run", "run").returncode == 0
    before = (folder / "run" / "config.json").read_bytes()
    assert_refused(train(folder, "config.json", "--run", "run", "optimizer.learning_rate=0.02"),
                   "got another value of optimizer.learning_rate")
    assert (folder / "run" / "config.json").read_bytes() == before


def test_a_second_process_in_the_folder_is_refused(folder):
    process = start(folder, "config.json", "--run", "run", "training.steps=100000")
    wait_for_lines(process, folder / "run", 2)
    second = train(folder, "config.json", "--run", "run", "training.steps=100000")
    assert_refused(second, "must not be in use")
    process.kill()
    process.communicate()
    assert all(line["step"] == index for index, line in enumerate(figures(folder / "run"), start=1))


@pytest.mark.parametrize("override, part", [
    ("training.stepz=3", "training.stepz must be a known key, did you mean training.steps?"),
    ("trainng.steps=3", "did you mean training?"),
    ("training.steps=many", "training.steps must be an integer of at least 1, got \"many\""),
    ("training.steps=0", "training.steps must be an integer of at least 1, got 0"),
    ("training.steps=1.5", "training.steps must be an integer"),
    ("training.precision=float8", "training.precision must be one of float32, bfloat16, float16, got \"float8\""),
    ("head.type=liner", "did you mean linear?"),
    ("head.rank=4", "head.rank must be a known key"),
    ("optimizer.betas=[0.9]", "optimizer.betas must be two numbers"),
    ("optimizer.groups=[{\"pattern\":\"nothing\"}]", "must match a parameter"),
    ("model.num_attention_heads=3", "must be a multiple of num_attention_heads 3"),
    ("model.vocab_size=63", "model.vocab_size must be at least the 64"),
    ("data.micro_batches=3", "micro_batches must divide batch_size 8, got 3"),
    ("data.sequence_length=600", "must have at least 601 tokens"),
    ("data.path=nowhere", "path must be the folder of a dataset, got \"nowhere\""),
    ("=3", "an override must read key.path=value")])
def test_mistakes_in_the_configuration_are_refused_in_one_line(folder, override, part):
    assert_refused(train(folder, "config.json", "--run", "run", override), part)
    assert not (folder / "run" / "checkpoints").exists()
    assert train(folder, "config.json", "--run", "run", "training.steps=1").returncode == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"training":{"steps":1e999}}', '{"training":3}',
                                  "\xff"])
def test_files_that_are_no_configuration_are_refused(folder, text):
    (folder / "bad.json").write_bytes(text.encode("latin-1"))
    assert_refused(train(folder, "bad.json", "--run", "run"))


def test_files_that_are_not_there_are_refused(folder):
    assert_refused(train(folder, "absent.json", "--run", "run"), "absent.json must be readable")
    assert_refused(train(folder, "data"), "config.json must be readable")
    assert_refused(train(folder), "config")


def edit_sidecar(folder, change):
    path = folder / "data" / "dataset.json"
    sidecar = json.loads(path.read_text())
    change(sidecar)
    path.write_text(json.dumps(sidecar))


def test_a_token_id_that_is_too_large_is_refused_by_position(folder):
    path = folder / "data" / "validation.bin"
    ids = array.array("H", path.read_bytes())
    ids[37] = 64
    path.write_bytes(ids.tobytes())
    sidecar = json.loads((folder / "data/dataset.json").read_text())
    sidecar["splits"]["validation"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "data/dataset.json").write_text(json.dumps(sidecar))
    process = train(folder, "config.json", "--run", "run", "training.validate_every=1")
    assert process.returncode == 2
    last = process.stderr_text.splitlines()[-1]
    assert "validation.bin" in last and "37" in last and "64" in last


@pytest.mark.parametrize("size", [0, 1, 100, 11999])
def test_truncated_and_empty_shards_are_refused(folder, size):
    os.truncate(folder / "data" / "train.bin", size)
    assert_refused(train(folder, "config.json", "--run", "run"), "train.bin")


def test_sidecars_with_wrong_values_are_refused(folder):
    edit_sidecar(folder, lambda sidecar: sidecar["splits"]["train"].update(file="../secret"))
    assert_refused(train(folder, "config.json", "--run", "run"), "splits.train.file")


@pytest.mark.parametrize("other, part", [
    ({"tokenizer_hash": "another"}, "must come from a dataset with the same tokenizer bytes, got another"),
    ({"content_hash": "another"}, "must come from the same dataset content, got another")])
def test_another_dataset_on_the_way_is_refused(folder, other, part):
    process = start(folder, "config.json", "--run", "run")
    wait_for_lines(process, folder / "run", 9)
    process.kill()
    process.communicate()
    edit_sidecar(folder, lambda sidecar: sidecar.update(other))
    assert_refused(train(folder, "run"), part)


def test_a_run_folder_that_cannot_be_written_is_refused(folder):
    (folder / "file").write_text("")
    assert_refused(train(folder, "config.json", "--run", "file/run"), "file/run must be a folder that can be")


def test_help_and_mistaken_verbs_answer_at_once(folder):
    def seconds(*arguments, code):
        start_time = time.monotonic()
        assert subprocess.run([LMHEAD, *arguments], capture_output=True, cwd=folder).returncode == code
        return time.monotonic() - start_time
    assert min(seconds("--help", code=0) for _ in range(3)) < 0.4
    assert min(seconds("train", "--help", code=0) for _ in range(3)) < 0.4
    mistaken = subprocess.run([LMHEAD, "trian"], capture_output=True, text=True, cwd=folder)
    assert mistaken.returncode == 2 and mistaken.stderr.count("\n") == 1
    assert "did you mean train?" in mistaken.stderr


def test_a_study_lists_its_runs_without_running_them(folder):
    study = {"name": "tiny", "base": configuration(folder, steps=2), "seeds": [0, 1],
             "arms": [{"name": "full"}, {"name": "rank 2", "set": {"head.type": "low_rank", "head.rank": 2}}]}
    (folder / "study.json").write_text(json.dumps(study))

    def run(*arguments):
        return subprocess.run([LMHEAD, "study", "study.json", "--out", "out", *arguments], cwd=folder,
                              capture_output=True, text=True, timeout=120)
    dry = run("--dry-run")
    assert dry.returncode == 0 and dry.stdout.count("to do ") == 4 and "runs/rank-2/seed-1" in dry.stdout
    assert not (folder / "out").exists()
    assert run().returncode == 0
    assert run("--dry-run").stdout.count("finished ") == 4
    assert len((folder / "out" / "results.jsonl").read_text().splitlines()) > 8
    assert run("training.stepz=1").returncode == 2
