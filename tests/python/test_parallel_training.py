"""Several processes train what one would: the same bits where sums have one order, else to rounding; and they end together."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parallel_process import cut_back
from test_train_command import LMHEAD, configuration, write_dataset

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
ROOT = Path(__file__).resolve().parents[2]
CLOCKS = {"tokens_per_second", "wall_seconds", "measure_seconds", "exchange_seconds", "exchange_bytes", "seconds_per_step"}
# Sums of float32 in another order, over four steps: some units in the last of seven digits, times what follows from them.
TOLERANCE = 2e-5
ROUNDING = 2e-6  # of sums of float32 in another order, against the largest number
ROUNDING_OF_A_STEP = 1e-3  # of AdamW's first, whose size is the rate wherever the gradient is not zero but for rounding
ROUNDING_OF_BFLOAT16 = 2e-3  # of a gradient over half of the tokens: half a unit in the last of eight bits


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def environment(rank, size, port, **more):
    path = os.pathsep.join([str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), **more}  # fmt: skip


def start(folder, size, *command, port=None, **more):
    """One process a rank, as torchrun would start them, without its own seconds."""
    port = port or free_port()
    return [subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=environment(rank, size, port, **more),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(size)]  # fmt: skip


def finish(processes, timeout=300):
    """Exit codes and what was said, by rank."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], [out for out, _ in said], [err for _, err in said]


def start_training(folder, size, *arguments, **more):
    return start(folder, size, "-m", "lmhead", "train", *arguments, **more)


def carry_out(folder, size, jobs):
    """Code and failure of every job, by rank."""
    list_of_jobs = folder / f"jobs-{size}.json"
    list_of_jobs.write_text(json.dumps(jobs))
    codes, _, errors = finish(start(folder, size, Path(__file__).with_name("parallel_process.py"), list_of_jobs))
    assert not any(codes), errors
    ended = [json.loads(Path(f"{list_of_jobs}.{rank}").read_text()) for rank in range(size)]
    return [[of_rank[index] for of_rank in ended] for index in range(len(jobs))]


def train_together(folder, size, jobs, again=()):
    """Trains configurations, by name, one after another in one set of processes; then `again` the ends of runs of two."""
    for name, job in jobs.items():
        (folder / f"{name}.json").write_text(json.dumps(job))
    commands = [[f"{name}.json", "--run-folder", f"{name}-{size}"] for name in jobs]
    commands += [[f"again={name}-2", f"{name}-on-{size}"] for name in again]
    for command, end in zip(commands, carry_out(folder, size, commands)):
        assert end == [[0, ""]] * size, command


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def without_clocks(value, clocks=frozenset(CLOCKS)):
    if isinstance(value, dict):
        return {key: without_clocks(one, clocks) for key, one in value.items() if key not in clocks}
    return [without_clocks(one, clocks) for one in value] if isinstance(value, list) else value


def parameters_of(run):
    last = max((run / "checkpoints").glob("step-*"))
    return (last / "model.safetensors").read_bytes(), (last / "optimizer.safetensors").read_bytes()


def expect_close(got, wanted, tolerance, where):
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), where
        for key, value in wanted.items():
            expect_close(got[key], value, tolerance, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), where
        for index, (one, other) in enumerate(zip(got, wanted)):
            expect_close(one, other, tolerance, f"{where}[{index}]")
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=tolerance, abs=tolerance), where
    else:
        assert got == wanted, where


def tiny(folder, changes=None, **training):
    """Four steps; changes are `group.key: value`."""
    json_ = configuration(folder, **{"steps": 4, "validate_every": 2, "checkpoint_every": 3, **training})
    json_["data"].update(sequence_length=16, validation_tokens=160)
    for path, value in (changes or {}).items():
        *groups, last = path.split(".")
        place = json_
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return json_


ALL_DIAGNOSTICS = ("quality", "gradient_retention", "local_retention", "token_breakdown", "gradient_spectrum", "update_direction",
                   "head_spectrum")  # fmt: skip
# What is of a whole batch, each of which would be another number if it were of a process's own tokens.
CASES = {
    "plain": {},
    "micro batches": {"data.micro_batches": 2},
    "uneven": {"data.batch_size": 7},
    "muon": {"optimizer.type": "muon"},
    "loss terms": {"loss.z_loss": 0.01, "loss.label_smoothing": 0.1},
    "tied": {"model.tie_word_embeddings": True},
    "top subspace": {"head_gradient.hidden": {"rule": "top_subspace", "rank": 4}},
    "noise": {"head_gradient.hidden": {"rule": "noise", "rank": 4}, "data.batch_size": 7},
    "feedback": {"head_gradient.hidden": {"rule": "fixed_feedback"}},
    "normalized rows": {"head_gradient.hidden": {"rule": "row_normalized", "at": "last_block_input"}},
    "fisher": {"head_gradient.hidden": {"rule": "whitened", "matrix": "fisher"}, "data.batch_size": 7},
    "fisher of more": {"head_gradient.hidden": {"rule": "whitened", "matrix": "fisher"}, "loss.z_loss": 0.01},
    "gradient covariance": {"head_gradient.hidden": {"rule": "whitened", "matrix": "gradient_covariance", "refresh_every": 3}},
    "random": {"head_gradient.hidden": {"rule": "whitened", "matrix": "random"}},
    "feature covariance": {"head_gradient.weight": {"rule": "whitened", "matrix": "feature_covariance"}, "data.micro_batches": 2},
    "parallel": {"head_gradient.weight": {"rule": "parallel"}},
    "penalties": {"head_gradient.penalties": {"alignment": 0.1, "orthogonality": 0.1}, "data.batch_size": 7},
    "half tied": {"head": {"type": "linear", "tied_share": 0.5}, "model.tie_word_embeddings": True},
    "sharded": {"parallel.optimizer": "sharded", "data.batch_size": 7},
    "sharded muon": {"parallel.optimizer": "sharded", "optimizer.type": "muon", "model.tie_word_embeddings": True},
    "sharded coupled": {"parallel.optimizer": "sharded", "data.micro_batches": 2, "optimizer.groups": [
        {"pattern": "lm_head.weight", "type": "adamw", "coupled": True}, {"pattern": "*embed*", "type": "row_normalized"},
        {"pattern": "*norm*", "type": "sgd"}]},
    "sharded rule": {"parallel.optimizer": "sharded", "head_gradient.weight": {"rule": "whitened"}},
    "sharded bfloat16": {"parallel.optimizer": "sharded", "training.precision": "bfloat16"},
    "observed": {"observe.gradient_retention.every": 2, "observe.diagnostics.every": 3, "data.batch_size": 7,
                 **{f"observe.diagnostics.{name}": True for name in ALL_DIAGNOSTICS}},
    # Of one process they are the plain head. 67 words are not equally many in two processes, nor in four.
    "words": {"parallel.vocabulary": "on", "model.vocab_size": 67},
    "words uneven": {"parallel.vocabulary": "on", "model.vocab_size": 67, "data.batch_size": 7, "loss.z_loss": 0.01},
    "words terms": {"parallel.vocabulary": "on", "model.vocab_size": 67, "data.micro_batches": 2, "loss.label_smoothing": 0.1,
                    "loss.z_loss": 0.01, "head": {"type": "linear", "bias": True, "bias_initialization": "log_counts", "logit_softcap": 5.0}},
    "words caps": {"parallel.vocabulary": "on", "head": {"type": "linear", "sigmoid_cap": [5.0, 0.5, 2.0], "mup_base_width": 8}},
    "words sharded": {"parallel": {"vocabulary": "on", "optimizer": "sharded"}, "model.vocab_size": 67, "data.batch_size": 7},
    "words muon": {"parallel": {"vocabulary": "on", "optimizer": "sharded"}, "optimizer.type": "muon", "optimizer.groups": [
        {"pattern": "lm_head.weight", "type": "row_normalized"}]},
    "words low rank": {"parallel.vocabulary": "on", "model.vocab_size": 67, "head": {"type": "low_rank", "rank": 8}},
    "words bfloat16": {"parallel.vocabulary": "on", "training.precision": "bfloat16"},
    "words observed": {"parallel.vocabulary": "on", "model.vocab_size": 67, "data.batch_size": 7,
                       "observe.gradient_retention": {"every": 2, "tokens": 40}},
    "words tied": {"parallel.vocabulary": "on", "model.vocab_size": 67, "model.tie_word_embeddings": True, "data.batch_size": 7},
    "words tied sharded": {"parallel": {"vocabulary": "on", "optimizer": "sharded"}, "model.tie_word_embeddings": True, "data.micro_batches": 2,
                           "training.checkpoint_activations": True, "head": {"type": "linear", "bias": True}, "optimizer.groups": [
                               {"pattern": "*embed*", "type": "row_normalized"}]},
    "words positions": {"parallel.vocabulary": "on", "model.vocab_size": 67, "model.position": "learned", "model.norm": "layernorm",
                        "optimizer.groups": [{"pattern": "*embed_tokens*", "weight_decay": 0.1, "learning_rate_scale": 0.5}]},
    # The same with all words in every process.
    "whole": {"model.vocab_size": 67},
    "whole tied": {"model.vocab_size": 67, "model.tie_word_embeddings": True, "data.batch_size": 7},
    "words automatic": {"parallel.vocabulary": "auto", "model.vocab_size": 700},
}  # fmt: skip
HEADS = {
    "candidate": {"type": "candidate", "drawn": {"start": 0.2, "end": 0.2}},
    "adaptive": {"type": "adaptive", "cutoffs": [16]},
    "two_level": {"type": "two_level"},
    "multi_token": {"type": "multi_token"},
    "multi_exit": {"type": "multi_exit"},
    "multi_resolution": {"type": "multi_resolution", "classes": [8]},
    "copy": {"type": "copy", "width": 4},
    "token_skip": {"type": "token_skip", "width": 4},
    "mixture": {"type": "mixture_of_softmaxes", "components": 2},
    "growing": {"type": "multi_token", "weight": {"start": 0.0, "end": 0.5, "shape": "linear", "until": 1.0}},
    "penalised": {"type": "linear", "mean_row_penalty": 0.1, "bias": True},
}

AGAIN = ("plain", "muon", "gradient-covariance", "observed", "sharded", "sharded-muon", "sharded-coupled", "words-terms", "words-sharded",
         "words-muon", "words-low-rank", "words-tied")  # fmt: skip


def jobs_of(folder):
    jobs = {name.replace(" ", "-"): tiny(folder, changes) for name, changes in CASES.items()}
    return {**jobs, **{f"head-{name}": tiny(folder, {"head": head}) for name, head in HEADS.items()}}


def first_steps(folder):
    jobs = {name: job for name, job in jobs_of(folder).items() if name.startswith("words") and "bfloat16" not in name}
    return {f"first-{name}": {**job, "training": {**job["training"], "steps": 1}} for name, job in jobs.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every job in one process, in two and in four."""
    folder = tmp_path_factory.mktemp("together")
    write_dataset(folder / "data")
    jobs = {**jobs_of(folder), **first_steps(folder)}
    halves = {f"halves-{name}": {**jobs[name], "data": {**jobs[name]["data"], "micro_batches": 2}} for name in ("plain", "muon", "tied")}
    train_together(folder, 2, jobs, AGAIN)
    train_together(folder, 4, jobs, AGAIN)
    train_together(folder, 1, {**jobs, **halves}, AGAIN)
    return folder


@pytest.mark.parametrize("size", [2, 4])
def test_a_step_is_that_of_its_whole_batch(trained, size):
    for name in jobs_of(trained):
        got, wanted = log_of(trained / f"{name}-{size}"), log_of(trained / f"{name}-1")
        assert all(line["exchange_seconds"] > 0 for line in got) and not any("exchange_seconds" in line for line in wanted)
        is_narrow = "bfloat16" in name  # whose logits are often equal but for rounding, and which is the largest is then chance
        left_out = CLOCKS | {"top1_accuracy"} if is_narrow else CLOCKS
        expect_close(without_clocks(got, left_out), without_clocks(wanted, left_out), ROUNDING_OF_BFLOAT16 if is_narrow else TOLERANCE, name)


def test_two_processes_give_the_bits_of_one_with_two_micro_batches(trained):
    for name in ("plain", "muon", "tied"):
        run, one = trained / f"{name}-2", trained / f"halves-{name}-1"
        assert parameters_of(run) == parameters_of(one), name
        for got, wanted in zip(log_of(run), log_of(one)):
            assert (got["loss"], got["gradient_norm"]) == (wanted["loss"], wanted["gradient_norm"])


def test_a_run_says_how_many_trained_it(trained):
    for size in (2, 4):
        assert json.loads((trained / f"plain-{size}" / "summary.json").read_text())["processes"] == size
        state = json.loads((trained / f"plain-{size}" / "checkpoints" / "step-00000004" / "state.json").read_text())
        assert state["processes"] == size
    assert "processes" not in json.loads((trained / "plain-1" / "summary.json").read_text())


def test_a_checkpoint_is_laid_out_alike_however_many_wrote_it(trained):
    for name in ("sharded", "sharded-muon", "sharded-coupled", "words-terms", "words-sharded", "words-muon", "words-tied"):
        layouts = []
        for size in (1, 2, 4):
            with (max((trained / f"{name}-{size}" / "checkpoints").glob("step-*")) / "optimizer.safetensors").open("rb") as file:
                layouts.append(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
        assert layouts[0] and layouts[0] == layouts[1] == layouts[2]
    # A run may change how its optimiser is shared out.
    cut_back(trained / "sharded-2", trained / "unshared")
    done = subprocess.run([LMHEAD, "train", "unshared", "parallel.optimizer=replicated"], cwd=trained, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_of_shared_words_are_those_of_one_process(trained, size):
    """A first average is a tenth of the first gradient, and a momentum all of it, times what the norm was clipped by."""
    safetensors = pytest.importorskip("safetensors.torch")
    for name in first_steps(trained):
        for kind, tolerance in (("optimizer", ROUNDING), ("model", ROUNDING_OF_A_STEP)):
            got, wanted = (safetensors.load_file(trained / run / "checkpoints" / "step-00000001" / f"{kind}.safetensors")
                           for run in (f"{name}-{size}", f"{name}-1"))  # fmt: skip
            assert got.keys() == wanted.keys() and any("embed_tokens" in key for key in wanted)
            for key, tensor in wanted.items():
                assert got[key].shape == tensor.shape and got[key].dtype == tensor.dtype
                error, size_of_it = (got[key] - tensor).abs().max().item(), tensor.abs().max().item()
                assert error <= tolerance * size_of_it, (name, key, error, size_of_it)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shared, whole", [("words", "whole"), ("words-tied", "whole-tied")])
def test_shared_words_train_what_whole_ones_do_in_as_many_processes(trained, size, shared, whole):
    safetensors = pytest.importorskip("safetensors.torch")
    left_out = CLOCKS | {"vocabulary_parallel"}
    expect_close(without_clocks(log_of(trained / f"{shared}-{size}"), left_out), without_clocks(log_of(trained / f"{whole}-{size}"), left_out), TOLERANCE, shared)
    got, wanted = (safetensors.load_file(max((trained / f"{name}-{size}" / "checkpoints").glob("step-*")) / "model.safetensors") for name in (shared, whole))
    assert got.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert (got[key] - tensor).abs().max().item() <= 4 * ROUNDING_OF_A_STEP * tensor.abs().max().item(), key  # four steps


@pytest.mark.parametrize("size", [2, 4])
def test_what_is_sent_is_what_is_planned(trained, size):
    said_by_heads = {"head-growing", "head-penalised", "head-multi_token", "head-multi_exit", "head-multi_resolution", "head-candidate"}
    for name, job in jobs_of(trained).items():
        if "head_gradient" in job or "observe" in job or name in said_by_heads:  # which the plan says that it leaves out
            continue
        command = [LMHEAD, "plan", trained / f"{name}.json", "--processes", str(size), "--link", "1,10", "--rate", "1", "--json"]
        plan = json.loads(subprocess.run(command, cwd=trained, capture_output=True, text=True, check=True).stdout)
        summary = json.loads((trained / f"{name}-{size}" / "summary.json").read_text())
        shared = "on" if summary.get("vocabulary_parallel") else "off"
        sharded = job.get("parallel", {}).get("optimizer", "replicated")
        way, = [way for way in plan["ways"] if (way["parallel.optimizer"], way["parallel.vocabulary"]) == (sharded, shared)]
        for line in log_of(trained / f"{name}-{size}"):
            if "validation" not in line:
                assert line["exchange_bytes"] == round(way["exchange_bytes"]), name
    assert "vocabulary_parallel" in json.loads((trained / f"words-automatic-{size}" / "summary.json").read_text())


@pytest.fixture
def folder(tmp_path):
    write_dataset(tmp_path / "data")
    (tmp_path / "config.json").write_text(json.dumps(tiny(tmp_path)))
    return tmp_path


def test_a_run_goes_on_in_as_many_processes_bit_for_bit_and_in_others_to_rounding(trained):
    for name in AGAIN:
        wanted = trained / f"{name}-2"
        assert parameters_of(trained / f"{name}-on-2") == parameters_of(wanted), name
        assert without_clocks(log_of(trained / f"{name}-on-2")) == without_clocks(log_of(wanted)), name
        for size in (1, 4):
            expect_close(without_clocks(log_of(trained / f"{name}-on-{size}")), without_clocks(log_of(wanted)), TOLERANCE, name)
    cut_back(trained / "plain-2", trained / "told")
    done = subprocess.run([LMHEAD, "train", "told"], cwd=trained, capture_output=True, text=True)
    assert done.returncode == 0 and "going on after step 3" in done.stderr
    assert "its checkpoint was written with 2 processes and this is 1: the rest will differ in its last digits" in done.stderr


def test_what_is_wrong_is_said_by_all_alike(trained):
    config, other = "plain.json", trained / "other"
    other.mkdir()
    write_dataset(other / "data", content_hash="other")
    here, there = f"cwd={trained}", f"cwd={other}"
    at = [str(trained / config), "--run", str(trained / "refused")]
    jobs = [
        (2, "[train] a micro-batch must have a sequence for each of the 2 processes, got 1 ", [config, "data.micro_batches=8"]),
        (2, "[train] all processes must have the same configuration, got another value of loss.z_loss in process 1",
         [[config], [config, "loss.z_loss=0.5"]]),
        (2, "[run] here must be one folder that all processes see, got another one in process 1",
         [[here, config, "--run", "here"], [there, at[0], "--run", "here"]]),
        (2, "[train] all processes must have the same state to begin from, got step 0, dataset content, tokenizer bytes in process 0 "
         "and step 0, dataset other, tokenizer bytes in process 1",
         [[here, *at, "data.path=data"], [there, *at, "data.path=data"]]),
        (2, "[train] the head must be one linear map, whose rows nothing else looks at,",
         [config, "parallel.vocabulary=on", "model.tie_word_embeddings=true", "head.tied_share=0.5"]),
        (2, "[train] the head must be one linear map, whose rows nothing else looks at, with parallel.vocabulary on, got two_level",
         [config, "parallel.vocabulary=on", 'head={"type": "two_level"}']),
        (2, "[train] the head must be one linear map", [config, "parallel.vocabulary=on", "head.center_rows=true"]),
        (2, "[train] head_gradient must be left as it is with parallel.vocabulary on", [config, "parallel.vocabulary=on", "head_gradient.hidden.rule=fixed_feedback"]),
        (2, "[train] the update of lm_head.weight must be of each row by itself with parallel.vocabulary on",
         [config, "parallel.vocabulary=on", 'optimizer.groups=[{"pattern": "lm_head.weight", "type": "muon"}]']),
        (2, "[train] the update of model.embed_tokens.weight must be of each row by itself with parallel.vocabulary on",
         [config, "parallel.vocabulary=on", 'optimizer.groups=[{"pattern": "*embed*", "type": "adamw", "coupled": true}]']),
        (2, "[train] observe.diagnostics must be off with parallel.vocabulary on", [config, "parallel.vocabulary=on", "observe.diagnostics.every=2",
                                                                                    "observe.diagnostics.quality=true"]),
        (2, "[train] the vocabulary must have a word for each of the 2 processes with parallel.vocabulary on, got 1",
         [config, "parallel.vocabulary=on", 'data={"kind": "spamlang", "spamlang": {"vocab_size": 1}, "sequence_length": 4, "batch_size": 4}']),
        (2, "[files] nowhere.json", [[config], ["nowhere.json"]]),
        (2, "[run] plain-2 must hold the same configuration or none", [config, "loss.z_loss=0.5", "--run", "plain-2"]),
        (1, "[train] the ", [config, "optimizer.learning_rate=1e30", "training.clip_norm=0", "--run", "diverged"]),
        (0, "", [config, "--run", "refused"]),
    ]  # fmt: skip
    for (code, text, _), ends in zip(jobs, carry_out(trained, 2, [job for _, _, job in jobs])):
        assert [end[0] for end in ends] == [code] * 2 and ends[0] == ends[1] and ends[0][1].startswith(text), ends


def test_a_mistake_is_one_line_and_ends_all(folder):
    codes, out, errors = finish(start_training(folder, 2, "config.json", "data.sequence_length=none"))
    assert codes == [2, 2] and out == ["", ""] and errors[1] == ""
    assert re.fullmatch(r"\[config\] .*sequence_length.*\n", errors[0]), errors[0]


def test_a_port_that_another_program_listens_at_is_one_line_and_ends_all(folder):
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        codes, _, errors = finish(start(folder, 2, "-m", "lmhead", "train", "config.json", port=port, LMHEAD_PROCESS_TIMEOUT="1"), 60)
    assert codes == [2, 2] and not (folder / "runs").exists()
    assert re.fullmatch(r"\[train\] 2 processes must find one another, got: .*EADDRINUSE.*\n", errors[0])
    assert errors[1] == f"[train] 2 processes must find one another, got: no answer of theirs at 127.0.0.1:{port} in 1 seconds\n"


def wait_for_steps(run, count, processes):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if (run / "log.jsonl").exists() and (run / "log.jsonl").read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.001)
    raise AssertionError(f"no {count} steps: {finish(processes)}")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_with_one_line_that_names_it(folder, lost):
    processes = start_training(folder, 2, "config.json", "training.steps=1000000", "--run-folder", "run")
    wait_for_steps(folder / "run", 5, processes)
    processes[lost].kill()
    codes, _, errors = finish(processes)
    left = 1 - lost
    assert codes[lost] == -signal.SIGKILL and codes[left] == 1
    lines = [line for line in errors[left].splitlines() if not line.startswith("step ")]
    assert lines == [f"[train] every process must go on to the end, got process {lost} of 2 lost; the newest checkpoint is kept"]


def test_a_process_that_hangs_is_named_after_the_time_out(folder):
    processes = start_training(folder, 2, "config.json", "training.steps=1000000", "--run-folder", "run", LMHEAD_PROCESS_TIMEOUT="2")
    wait_for_steps(folder / "run", 5, processes)
    processes[1].send_signal(signal.SIGSTOP)
    assert processes[0].wait(timeout=30) == 1
    assert "got process 1 of 2 lost" in processes[0].stderr.read()
    finish(processes, 0.1) if processes[1].poll() is not None else processes[1].kill()


def test_one_that_is_told_to_stop_stops_all_and_everything_is_saved(folder):
    processes = start_training(folder, 2, "config.json", "training.steps=1000000", "--run-folder", "run")
    wait_for_steps(folder / "run", 5, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, _, errors = finish(processes)
    assert codes == [130, 130] and errors[1] == "" and "stopped and saved; go on with: lmhead train run" in errors[0]
    assert len(log_of(folder / "run")) == json.loads((folder / "run" / "summary.json").read_text())["steps"]


def test_what_an_earlier_start_left_in_the_store_is_not_read(folder):
    """torchrun's store is one for all restarts; the processes of each must meet in a part of their own."""
    dist = pytest.importorskip("torch.distributed")
    sys.path.insert(0, str(ROOT / "python"))
    from lmhead import training

    memory = dist.HashStore()
    for start in range(3):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            late_first = [pool.submit(training.fresh_store, memory, rank, 4, 20) for rank in (1, 2)]
            time.sleep(0.05 * start)
            rest = [pool.submit(training.fresh_store, memory, rank, 4, 20) for rank in (0, 3)]
            stores = [one.result() for one in (*late_first, *rest)]
        for rank, store in enumerate(stores):
            assert not store.check([f"address/{rank}"])
            store.set(f"address/{rank}", str(start))
        assert all(store.get("address/0") == str(start).encode() for store in stores)
    with pytest.raises(RuntimeError, match="no word from process 1 in 0.1 seconds"):
        training.fresh_store(dist.HashStore(), 0, 2, 0.1)


def test_under_torchrun(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lmhead", "train", "config.json", "--run-folder", "run"]
    done = subprocess.run(command, cwd=folder, env=environment(0, 1, 0), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"run: validation loss [\d.]+ nats/token, [\d.]+ bits/byte, \d+ tokens/s\n", done.stdout)
    assert len(log_of(folder / "run")) == 4 and done.stderr.count("step 4/4") == 1
