"""The benchmark of evaluation at a tiny size, memory in processes of their own included."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_the_evaluation_benchmark_compares_answers_before_it_times_them(tmp_path):
    pytest.importorskip("lm_eval", reason="needs the extra evaluate")
    if not (ROOT / ".venv/lib/liblmhead.so").exists():
        pytest.skip("lmhead is not installed")
    command = [sys.executable, ROOT / "bench/evaluation.py", "--out", tmp_path / "rows.jsonl", "--shape", "tiny", "--rounds", "1", "--questions", "2"]
    command += ["--texts", "2", "--characters", "300", "--batch-size", "4", "--max-length", "256"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["dtype"], row["kind"]) for row in rows] == [
        (dtype, kind) for dtype in ("float32", "bfloat16") for kind in ("multiple choice", "rolling")]
    for row in rows:
        low, high = row["ratio_quantiles"]
        assert 0 < low <= row["ratio"] <= high and row["lmhead"] > 0 and row["batch_size"] == 4
        assert all(0 < row["memory"][name]["growth"] < row["memory"][name]["peak"] for name in ("lmhead", "hf"))
    assert rows[0]["worst_difference"] < 1e-4 < rows[2]["worst_difference"]
    subprocess.run([*command, "--memory-only", "--no-bfloat16"], check=True, capture_output=True, text=True, timeout=300)
    again = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()][4:]
    assert [set(row["memory"]) for row in again] == [{"lmhead", "hf"}] * 2 and not any("ratio" in row for row in again)
    table = subprocess.run([*command, "--summary"], check=True, capture_output=True, text=True).stdout
    assert table.count("|") > 40 and "multiple choice" in table
