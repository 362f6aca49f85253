"""lmhead measure of further families, beside --engine transformers: test_measure_engine.py has two of them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure_fixtures import command  # noqa: E402, F401
from test_measure_engine import check_family  # noqa: E402


@pytest.mark.parametrize("name", ["mixtral", "phi3_longrope", "granite", "stablelm_norms", "nemotron_biases", "llama_yarn", "llama_dynamic_beyond", "gemma2"])
def test_a_family_has_the_figures_of_transformers(command, tmp_path, name):  # noqa: F811
    check_family(command, tmp_path, name)
