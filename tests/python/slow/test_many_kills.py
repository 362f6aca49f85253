"""LMHEAD_KILL_TRIALS trials (200), each drawn from its number, from LMHEAD_KILL_SEED (0) on."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kill_trials import LMHEAD, Trials  # noqa: E402

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")


def test_what_is_killed_ends_in_the_same_bits_with_nothing_left_over(tmp_path, capsys):
    count, first = int(os.environ.get("LMHEAD_KILL_TRIALS", "200")), int(os.environ.get("LMHEAD_KILL_SEED", "0"))
    trials = Trials(tmp_path)
    for seed in range(first, first + count):
        trials.trial(seed)
    with capsys.disabled():
        print(f"\n{count} trials from {first} on, {trials.kills} kills")
    assert trials.kills >= count / 2  # or they were none
