"""Effects of arms against their controls: intervals against brute force, integration and simulation; verdicts."""

import csv
import dataclasses
import itertools
import math
import random

import numpy as np
import pytest

from ptd_core.errors import OutputError
from ptd_core.records.cells import Cell
from ptd_core.records.effects import EFFECTS, effect, effects_table, interaction, write_effects
from ptd_core.records.finished_runs import FinishedRun
from ptd_core.records.statistics import bootstrap_interval, mean_and_sd, t975, t_interval


def run(cell, seed, accuracy, seconds=10.0):
    return FinishedRun(
        f"{cell}_seed{seed}", cell, "ptd", seed, 3, accuracy, accuracy - 1, accuracy, 50.0, seconds, 1.0, "D", "fp32",
        "fused", "off", "2", "abc", "", training_flops=seconds**2,
    )  # fmt: skip


def cell(name, accuracies, seconds=10.0):
    return Cell(name, [run(name, seed, accuracy, seconds) for seed, accuracy in accuracies.items()])


def test_t_quantiles_by_integration_of_the_density():
    for freedom in range(1, 61):
        quantile = t975(freedom)
        x = np.linspace(0, quantile, 200_001)
        constant = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
        density = constant * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
        area = (density[1:] + density[:-1]).sum() * (x[1] - x[0]) / 2
        assert 0.5 + area == pytest.approx(0.975, abs=3e-6), freedom  # they are given to four digits


def test_the_bootstrap_lists_all_resamples_of_few_values():
    values = [0.1, -0.4, 0.25, 0.9]
    means = sorted(sum(one) / 4 for one in itertools.product(values, repeat=4))
    low, high = means[math.ceil(0.025 * 256) - 1], means[math.ceil(0.975 * 256) - 1]
    assert bootstrap_interval(values) == pytest.approx((low, high), abs=1e-12)
    assert bootstrap_interval([1.0, 3.0]) == (1.0, 3.0)


def test_of_many_values_the_bootstrap_is_that_of_a_normal_mean():
    values = [random.Random(1).gauss(0.5, 2) for _ in range(1)] + [random.Random(n).gauss(0.5, 2) for n in range(19)]
    mean, sd = mean_and_sd(values)
    half = 1.96 * sd * math.sqrt(19 / 20) / math.sqrt(20)  # resamples vary by n, not by n - 1
    assert bootstrap_interval(values) == pytest.approx((mean - half, mean + half), abs=0.12 * half)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_with_five_seeds_the_bootstrap_is_too_narrow_and_t_is_right():
    """Simulated: how often an interval of five normal values holds their true mean."""
    draws = np.random.default_rng(0).normal(size=(1500, 5)).tolist()
    held = [sum(low <= 0 <= high for low, high in map(interval, draws)) / 1500 for interval in
            (bootstrap_interval, t_interval)]  # fmt: skip
    assert 0.79 < held[0] < 0.88 and 0.935 < held[1] < 0.965


def test_runs_are_paired_by_seed():
    arm, control = cell("arm", {0: 40.0, 1: 41.0, 3: 39.0}, 8.0), cell("control", {3: 40.0, 1: 40.5, 2: 10.0, 0: 40.0})
    found = effect(arm, control)
    assert (found.arm, found.control, found.seeds) == ("arm", "control", (0, 1, 3))
    assert found.differences == (0.0, 0.5, -1.0) and found.mean == pytest.approx(-1 / 6)
    assert (found.t_low, found.t_high) == pytest.approx(t_interval([0.0, 0.5, -1.0]))
    assert (found.faster, found.predicted) == (1.25, 1.25**2)
    raw = effect(arm, control, "clean_train_accuracy")
    assert raw.differences == (0.0, 0.0, 0.0) and raw.verdict.startswith("few seeds, which differ equally")
    with pytest.raises(OutputError, match="arm and other have no seed in common"):
        effect(arm, cell("other", {7: 1.0}))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.3, 0.4, 0.35, 0.38), "better"),
        ((-1.3, -1.4, -1.35, -1.38), "worse"),
        ((-0.11, -0.12, -0.1, -0.11), "worse, but by less than 0.3 points"),
        ((-0.05, 0.06, 0.01, -0.02), "no difference seen, no loss"),
        ((-0.9, 0.8, 0.1, -0.2), "no difference seen"),
        ((0.1, 0.9, 0.2), "no difference seen"),  # all above 0, and so the bootstrap's interval, but not t's
        ((-0.1, -0.9, -0.2), "no difference seen"),
        ((0.5,), "one seed: nothing can be said"),
        ((0.2, 0.2), "few seeds, which differ equally: nothing can be said"),  # one image of 500, twice
        ((0.0, 0.0, 0.0, 0.0), "few seeds, which differ equally: nothing can be said"),
        ((2.0,) * 5, "better"),
    ],
)
def test_verdicts(differences, verdict):
    found = effect(cell("a", dict(enumerate(differences))), cell("b", dict.fromkeys(range(len(differences)), 0.0)))
    assert found.verdict == verdict


def test_an_interaction_is_the_difference_of_differences():
    plain, one = cell("plain", {0: 10.0, 1: 11.0}), cell("one", {0: 12.0, 1: 12.0}, 5.0)
    other, both = cell("other", {0: 9.0, 1: 9.0}, 20.0), cell("both", {0: 12.0, 1: 13.0}, 5.0)
    found = interaction(plain, one, other, both)
    assert found.differences == ((12 - 9) - (12 - 10), (13 - 9) - (12 - 11))
    assert (found.faster, found.predicted) == (2.0, 4.0)
    with pytest.raises(OutputError, match="both: an interaction needs the same seeds"):
        interaction(plain, one, cell("other", {0: 9.0}), both)


def test_the_table_holds_every_seed(tmp_path):
    arms = {name: cell(name, values) for name, values in {"a": {0: 1.0, 1: 3.0}, "c": {0: 1.5, 1: 2.0}}.items()}
    write_effects([effect(arms["a"], arms["c"])], tmp_path)
    (row,) = csv.DictReader((tmp_path / EFFECTS).open())
    assert (row["arm"], row["control"], row["seeds"], row["differences"]) == ("a", "c", "0;1", "-0.5;1.0")
    assert float(row["mean"]) == 0.25 and float(row["low"]) == -0.5 and row["verdict"] == "no difference seen"


@pytest.mark.parametrize("values", [[], [1.0]])
def test_too_few_values_have_no_interval(values):
    for interval in (bootstrap_interval, t_interval):
        with pytest.raises(ValueError, match=f"got {len(values)}"):
            interval(values)


def test_seconds_of_different_machines_are_not_compared():
    here, there = cell("few", {0: 41.0, 1: 42.5}, seconds=8.0), cell("all", {0: 40.0, 1: 41.0})
    elsewhere = Cell("all", [dataclasses.replace(one, device="E") for one in there.runs])
    one = effect(here, elsewhere)
    assert math.isnan(one.faster) and one.predicted == 1.25**2
    moved = [Cell(one.name, [dataclasses.replace(run, device="D; E") for run in one.runs]) for one in (here, there)]
    assert math.isnan(effect(*moved).faster)  # each was resumed on another machine, and who knows after how long
    assert "| 1.56x | - | no difference seen |" in effects_table([one])
    unknown = Cell("all", [dataclasses.replace(one, training_flops=math.nan) for one in there.runs])
    assert math.isnan(effect(here, unknown).predicted) and effect(here, unknown).faster == 1.25


def test_a_table_shows_the_clock_only_where_it_is_asked_for():
    one = effect(cell("few", {0: 41.0, 1: 42.5}, seconds=8.0), cell("all", {0: 40.0, 1: 41.0}))
    timed, untimed = (effects_table([one], timed).splitlines() for timed in (True, False))
    assert "| faster, by operations | by the clock | verdict |" in timed[0] and "| 1.56x | 1.25x |" in timed[2]
    assert "| faster, by operations | verdict |" in untimed[0] and "| 1.56x | no difference seen |" in untimed[2]
    assert len({line.count("|") for line in untimed}) == len({line.count("|") for line in timed}) == 1
