"""A few trains, exports and studies killed at random moments end in the same bits; tests/python/slow has two hundred."""

import random

import pytest
from kill_trials import LMHEAD, Trials

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")


def test_what_is_killed_ends_in_the_same_bits_with_nothing_left_over(tmp_path):
    trials = Trials(tmp_path)
    for number, kind in enumerate(["anywhere", "checkpoint", "last", "export", "study"]):
        getattr(trials, f"kill_{kind}")(random.Random(number))
    assert trials.kills >= 3  # or they were none
