"""The rule that recommends a way of training, on records that were made up."""

import pytest
from test_ledger import made_up

from ptd_core.chapter import evidence
from ptd_core.chapter.answers import RECORDS, answer
from ptd_core.chapter.recommending import candidates, recommended

WHOLE = [40.0, 41.0, 39.0, 40.5, 40.2]
FULL_TIME = ("all_tokens_17", "all_tokens_16", "all_tokens_15", "all_tokens_13", "all_tokens_11")
SCATTER = [0.05, -0.05, 0.1, -0.1, 0.0]  # a mean of zero and an interval of 0.1 about it
ARMS = ("ptd", "ptd_mirrored", "steps_50", "steps_40", "steps_50_fuse", "steps_50_merge", "steps_50_no_tail", "flat",
        "sizes", "sizes_and_steps")  # fmt: skip


def direction(seeds=5, equal_time=-1.0, **arms):
    """All arms a point worse than all tokens but for those given; all tokens in less time, worse by equal_time."""
    worse = dict.fromkeys(ARMS, -1.0) | dict.fromkeys(FULL_TIME, equal_time) | {"all_tokens": 0.0} | arms
    return made_up(
        "direction",
        {arm: [w + d + s for w, s in zip(WHOLE, SCATTER if d else [0] * 5)][:seeds] for arm, d in worse.items()},
    )


def chosen(one):
    return recommended(candidates(one)).rpartition("**")[0].rpartition("**")[2]


def test_all_arms_that_save_are_asked_those_that_save_most_first():
    found = candidates(direction())
    assert {one.arm for one in found} == set(ARMS)
    savings = [one.loss.predicted for one in found]
    assert savings == sorted(savings, reverse=True) and min(savings) > 1 and found[0].arm == "sizes_and_steps"
    assert {one.gain.control.removeprefix("evidence_") for one in found} == set(FULL_TIME)
    assert all(one.loss.control == "evidence_all_tokens" and one.decided for one in found)


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ({}, "None of 10 arms passes"),
        ({"steps_50": -0.1}, "1 of 10 arms pass; the one that saves most is steps_50,"),
        ({"steps_50": -0.1, "ptd": 0.3}, "2 of 10 arms pass; the one that saves most is steps_50,"),
        ({"steps_50": -0.25}, "None of 10 arms passes"),  # its interval reaches below -0.3
        ({"steps_50": -0.1, "equal_time": 0.1}, "None of 10 arms passes"),  # as good as all tokens, and not worth it
        ({"seeds": 4, "steps_50": 2.0}, "Not decided: fewer than 5 seeds are recorded of sizes_and_steps, "),
    ],
)
def test_an_arm_is_chosen_that_loses_nothing_and_beats_equal_time(arms, says):
    assert chosen(direction(**arms)).startswith(says)


def test_one_arm_that_lacks_a_seed_leaves_it_open():
    one = direction(steps_50=2.0)
    one.runs.remove(next(run for run in one.runs if run.run == "evidence_sizes_seed3"))
    assert chosen(one) == "Not decided: fewer than 5 seeds are recorded of sizes."
    (row,) = [line for line in recommended(candidates(one)).splitlines() if line.startswith("| sizes |")]
    assert row.count("5 seeds decide") == 3
    (row,) = [line for line in recommended(candidates(one)).splitlines() if line.startswith("| steps_50 |")]
    assert row.count("| yes ") == 3 and "+2.00 points (+1.90 to +2.10, n = 5)" in row


def test_nothing_is_recommended_from_nothing():
    for one in (answer("direction", RECORDS / "none"), direction(seeds=0)):
        assert evidence.recommended(one).data == "*Too little is recorded of direction yet to show this.*"
    assert "+0.95 points, one seed" in evidence.recommended(direction(seeds=1, ptd=0.9)).data
