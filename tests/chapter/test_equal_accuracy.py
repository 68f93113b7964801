"""What an arm saves at equal accuracy, on records that were made up: lines of all tokens whose answer is known."""

import math
import statistics

import pytest
from made_up import made_up

from ptd_core.chapter import evidence
from ptd_core.chapter.answers import answer
from ptd_core.chapter.equal_accuracy import equal_table, equals
from ptd_core.chapter.recommending import candidates
from ptd_core.paths import PROJECT_ROOT

EPOCHS = (20, 17, 16, 15, 13, 11)
SEEDS = [40.0, 41.0, 39.0, 40.5, 40.2]  # what all tokens reach in all epochs, by seed
SCATTER = [0.05, -0.05, 0.1, -0.1, 0.0]
T4 = 2.7764


def on_a_line(slope=20.0, scatter=SCATTER, **arms):
    """Direction's records where all tokens lose `slope` points for the whole training left out, and arms differ by so
    much from all tokens in all epochs."""
    given = {}
    for epochs in EPOCHS:
        name = "all_tokens" if epochs == 20 else f"all_tokens_{epochs}"
        given[name] = [value - slope * (1 - epochs / 20) for value in SEEDS]
    given |= {arm: [v + d + s for v, s in zip(SEEDS, scatter)] for arm, d in arms.items()}
    return made_up("direction", given)


def found(one, arm="steps_50"):
    return next(equal for equal in equals(one) if equal.arm == arm)


def test_on_a_straight_line_a_difference_is_a_share_of_the_training():
    equal = found(on_a_line(steps_50=-2.0))
    half = T4 * statistics.stdev(SCATTER) / math.sqrt(5)
    step = 0.45 / 1999  # the line has so many places
    assert equal.needed == pytest.approx(1 - 2 / 20, abs=step)
    assert (equal.low, equal.high) == pytest.approx((0.9 - half / 20, 0.9 + half / 20), abs=step)
    assert (equal.least, equal.most, equal.seeds) == (11 / 20, 1.0, (0, 1, 2, 3, 4))


def test_pairing_leaves_out_what_seeds_have_in_common():
    equal = found(on_a_line(scatter=[0.0] * 5, steps_50=-2.0))
    assert equal.low == equal.needed == equal.high == pytest.approx(0.9, abs=0.001)  # seeds lie two points apart


def test_what_lies_beyond_the_line_is_not_known():
    above, below = found(on_a_line(steps_50=1.0)), found(on_a_line(steps_50=-12.0))
    assert above.needed == above.low == above.high == above.most
    assert below.needed == below.low == below.high == below.least
    near = found(on_a_line(steps_50=-0.05))
    assert near.low < near.needed < near.high == near.most
    table = equal_table([near, above, below]).splitlines()[2:]
    cost = near.cost
    assert f"| {near.needed:.2f} | {near.low:.2f} to beyond 1.00 |" in table[0]
    assert f"| {near.needed / cost:.2f}x | {near.low / cost:.2f}x to beyond {1 / cost:.2f}x | 5 |" in table[0]
    assert "| beyond 1.00 | beyond 1.00 to beyond 1.00 |" in table[1]
    assert "| below 0.55 | below 0.55 to below 0.55 |" in table[2]


def test_arms_that_save_most_come_first_and_all_tokens_are_the_line():
    arms = equals(on_a_line(steps_50=-2.0, steps_40=-2.0, ptd=-8.0))
    assert [equal.arm for equal in arms] == ["steps_40", "steps_50", "ptd"]
    savings = [equal.needed / equal.cost for equal in arms]
    assert savings == sorted(savings, reverse=True) and savings[-1] < 1 < savings[-2]


def lacking(seeds):
    """Without the runs of 13 epochs but those of some seeds."""
    one = on_a_line(steps_50=-2.0)
    one.runs[:] = [run for run in one.runs if run.seed in seeds or run.cell != "evidence_all_tokens_13"]
    return one


def test_fewer_than_two_seeds_in_common_show_nothing():
    assert equals(lacking({0})) == []


def test_a_line_without_one_of_its_arms_is_a_line():
    assert found(lacking(set())).needed == pytest.approx(0.9, abs=0.001)


def test_another_question_adds_to_the_line():
    """On a bent line, 1 point at 17 epochs and 12 at 11, the chord between its ends would say otherwise."""
    ends = {name: [v - loss for v in SEEDS] for name, loss in (("all_tokens", 0.0), ("all_tokens_13", 12.0))}
    one = made_up("steeper", ends | {"steps_25": [v - 1.0 + s for v, s in zip(SEEDS, SCATTER)]})
    bent = made_up("direction", {"all_tokens": SEEDS, "all_tokens_17": [v - 1.0 for v in SEEDS]})
    assert found(one, "steps_25").needed == pytest.approx(1 - 0.35 / 12, abs=0.001)
    (equal,) = equals(one, bent)
    assert equal.needed == pytest.approx(0.85, abs=0.001) and (equal.least, equal.most) == (13 / 20, 1.0)


def test_without_a_line_nothing_is_shown():
    one = made_up("direction", {"all_tokens": SEEDS, "steps_50": SEEDS})
    assert equals(one) == [] and "Too little is recorded of direction" in evidence.equal_accuracy(one).data
    assert equals(made_up("direction", {"steps_50": SEEDS, "all_tokens_17": SEEDS})) == []


def test_published_arms_are_all_there():
    for question in ("direction", "steeper"):
        one = answer(question)
        arms = {equal.arm for equal in equals(one)}
        assert arms == {arm for arm in one.recipes if not arm.startswith("all_tokens")}


def test_readme_says_what_is_saved():
    readme = " ".join((PROJECT_ROOT / "README.md").read_text(encoding="utf-8").split())
    one = answer("direction")
    ptd, both = found(one, "ptd"), found(one, "sizes_and_steps")
    faster = {
        equal.arm: [f"{v / equal.cost:.2f}x" for v in (equal.needed, equal.low, equal.high)] for equal in equals(one)
    }
    assert "{} PTD's operations (95 % interval {} to beyond {}, all of its epochs)".format(*faster["ptd"]) in readme
    assert ptd.high == ptd.most and both.high < both.most and len(ptd.seeds) == len(both.seeds) == 5
    assert ptd.most == 1.0  # all epochs
    loss = one.effect("sizes_and_steps", "all_tokens")
    assert "{} ({} to {}), and lose {:.2f} points ({:.2f} to {:.2f})".format(
        *faster["sizes_and_steps"], -loss.mean, -loss.t_high, -loss.t_low
    ) in readme  # fmt: skip
    steeper = answer("steeper")
    arms = candidates(one) + candidates(steeper)
    assert "save most of 14 arms" in readme and len(arms) == 14 and not any(arm.no_loss for arm in arms)
    assert all(arm.beats_equal_time for arm in arms)  # as the chapter's summary says
    assert both == max(equals(one) + equals(steeper, one), key=lambda equal: equal.needed / equal.cost)
