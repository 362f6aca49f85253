"""A checkpoint of three billion numbers in four GiB, and the benchmark of measuring at a tiny size."""

import json
import pathlib
import subprocess
import sys

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("transformers")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from measure_fixtures import command, sparse_checkpoint  # noqa: E402, F401

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_three_billion_numbers_are_measured_in_four_gib(command, tmp_path, precision):
    """Llama-3.2-3B's sizes with a head of its own: 14.4 GB in float32, of which the head and its basis alone take 3.2."""
    folder, limit = tmp_path / "model", 4 * 2**30
    written = sparse_checkpoint(folder, layers=28, hidden_size=3072, intermediate_size=8192, heads=24, key_value_heads=8, vocab_size=128256)
    assert 4 * written["numbers"] > 3 * limit
    np.random.default_rng(0).integers(0, 64, 129).astype("<u2").tofile(tmp_path / "ids.bin")
    peak = command.peak("measure", folder, "--tokens", tmp_path / "ids.bin", "--token-type", "uint16", "--only", "quality", "gradient_retention",
                        "--memory", "4GiB", "--precision", precision, limit=limit)
    assert peak < limit


def test_the_benchmark_compares_figures_before_it_times_them(tmp_path):
    if not (ROOT / ".venv/bin/lmhead").exists():
        pytest.skip("lmhead is not installed")
    subprocess.run([sys.executable, ROOT / "bench/measure_checkpoint.py", "--out", tmp_path / "rows.jsonl", "--shape", "tiny", "--tokens", "1500", "--rounds", "1"],
                   check=True, capture_output=True, text=True, timeout=300)
    rows = [json.loads(row) for row in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["precision"] for row in rows] == ["float32", "bfloat16"]
    for row in rows:
        low, high = row["ratio_quantiles"]
        assert 0 < low <= row["ratio"] <= high and row["lmhead"] > 0 < row["plain"] and 0 < row["memory"]["lmhead"] < row["memory"]["plain"]


def test_the_benchmark_says_how_long_a_checkpoint_takes_that_is_not_made(tmp_path):
    if not (ROOT / ".venv/bin/lmhead").exists():
        pytest.skip("lmhead is not installed")
    subprocess.run([sys.executable, ROOT / "bench/measure_checkpoint.py", "--out", tmp_path / "rows.jsonl", "--whole", "tiny", "--layers-more", "3", "--tokens", "1500",
                    "--precision", "float32", "--scratch", tmp_path], check=True, capture_output=True, text=True, timeout=300)
    [row] = [json.loads(row) for row in (tmp_path / "rows.jsonl").read_text().splitlines()]
    one, four = row["measured"]["1"], row["measured"]["4"]
    assert row["a_layer_more"] == pytest.approx((four - one) / 3)
    assert row["whole"] == pytest.approx(one + 8 * row["a_layer_more"])
