"""Where benchmarks leave their rows: not among what is committed, unless they are told to."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path):
    """The benchmarks and their results in a folder of their own."""
    shutil.copytree(ROOT / "bench", tmp_path / "bench")
    (tmp_path / "python").symlink_to(ROOT / "python")
    return tmp_path


def rows_of(folder):
    return {file.name: file.read_text().splitlines() for file in folder.glob("*.jsonl")}


def test_a_benchmark_leaves_committed_rows_alone_unless_it_is_told_to_record(copy):
    if not (ROOT / ".venv/lib/liblmhead.so").exists():
        pytest.skip("lmhead is not installed")
    committed = rows_of(copy / "bench/results")
    command = [sys.executable, copy / "bench/gradient_retention.py", "--vocab-sizes", "64", "--rounds", "1", "--no-memory"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert rows_of(copy / "bench/results") == committed
    own = rows_of(copy / "runs/bench")["gradient_retention.jsonl"]
    assert len(own) == 2 and json.loads(own[0])["shape"]["V"] == 64

    subprocess.run([*command, "--record"], check=True, stdout=subprocess.DEVNULL, timeout=120)
    recorded = rows_of(copy / "bench/results")
    assert len(recorded.pop("gradient_retention.jsonl")) == len(committed.pop("gradient_retention.jsonl")) + 2
    assert recorded == committed


def test_every_benchmark_that_writes_rows_asks_the_same_function_where(copy):
    writing = [file for file in (copy / "bench").glob("*.py") if "result_rows.append(" in file.read_text()]
    assert len(writing) >= 4
    for file in writing:
        text = file.read_text()
        assert text.count("result_rows.append(") == text.count(f'result_rows.append(result_rows.file_of(arguments, "{file.stem}")')
        assert "result_rows.add_arguments(parser)" in text


def test_the_evaluation_benchmark_s_table_is_that_of_its_rows():
    sys.path.insert(0, str(ROOT / "bench"))
    import evaluation_table

    table = evaluation_table.summary(ROOT / "bench/results/evaluation.jsonl")
    assert table in (ROOT / "docs/evaluating.md").read_text(encoding="utf-8")


def test_the_heads_benchmark_times_any_head_and_tells_the_spread(copy):
    if not (ROOT / ".venv/lib/liblmhead.so").exists():
        pytest.skip("lmhead is not installed")
    (copy / "studies").symlink_to(ROOT / "studies")
    given = ["linear", '{"type": "low_rank", "rank": 4}', '{"type": "low_rank", "rank": 99}', "torch adaptive"]
    command = [sys.executable, copy / "bench/heads.py", "--shapes", "tiny", "--rounds", "3"]
    done = subprocess.run([*command, "--heads", *given], check=True, capture_output=True, text=True, timeout=300)
    assert "low_rank (rank 99)" in done.stdout and "rank must be at most hidden_size 16, got 99" in done.stdout
    rows = [json.loads(line) for line in rows_of(copy / "runs/bench")["heads.jsonl"]]
    assert [row["entrant"] for row in rows[::2]] == ["linear", "low_rank (rank 4)", "torch adaptive"]
    for row in rows[::2]:
        low, high = row["ratio_quantiles"]
        assert row["metric"] == "seconds" and row["rounds"] == 3 and 0 < low <= row["ratio_to_linear"] <= high
    assert rows[2]["options"] == {"type": "low_rank", "rank": 4}
    assert {row["metric"] for row in rows[1::2]} == {"extra_memory"}
    table = subprocess.run([*command, "--summary"], check=True, capture_output=True, text=True).stdout
    assert table.count("|") > 12 and "low_rank (rank 4)" in table
