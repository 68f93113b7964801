"""The published ledger, and what is said beside it, against the records that they rest on."""

import csv
import dataclasses
import re
import statistics

import pytest

from ptd_core.chapter import claims, evidence
from ptd_core.chapter.answers import RECORDS, answer
from ptd_core.chapter.judging import VERDICTS, Settled, Untested
from ptd_core.paths import PROJECT_ROOT
from ptd_core.records.effects import effects_table

LOGS = PROJECT_ROOT.parent / "shared" / "reference"


def test_no_verdict_is_empty_and_every_statement_is_said_once():
    said = [(claim.kind, claim.said) for claim in claims.CLAIMS]
    assert len(set(said)) == len(said) >= 30
    assert {kind for kind, _ in said} == {claims.RESULT, claims.CAUSE, claims.LIMIT, claims.FUTURE}
    for claim in claims.CLAIMS:
        verdict, text = claim.found()
        assert verdict in VERDICTS and text and "{" not in text
        assert "|" not in claim.said + claim.logged + text  # a cell of a table
        if isinstance(claim.test, (Settled, Untested)):
            for file in re.findall(r"(?:tests|parameters)/[\w/.]+", text):
                assert (PROJECT_ROOT / file).exists()


def test_readme_has_the_short_ledger():
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    assert claims.ledger_table(short=True) in readme, "python -m ptd_core.chapter.claims prints the table"
    for question, arm, words in (
        ("own_effect", "plain", "5,000 images seen 24 times ({:.1f} % test accuracy with all tokens)"),
        ("direction", "all_tokens", "the other sweeps of this table have all 50,000 seen four times ({:.1f} %)"),
    ):
        accuracies = answer(question).cell(arm).values("test_accuracy")
        assert words.format(sum(accuracies) / len(accuracies)) in readme.replace("\n", " ")


@pytest.mark.parametrize("picture", [evidence.differences, evidence.pays])
def test_bars_end_where_intervals_do(picture):
    lines = [line for line in picture(answer("direction")).axes[0].lines if line.get_alpha()]
    assert len(lines) > 10 and {line.get_solid_capstyle() for line in lines} == {"butt"}


def test_an_epoch_left_out_costs_all_tokens_as_much_as_the_chapter_says():
    one = answer("direction")
    for epochs in (17, 16, 15, 13, 11):
        assert one.effect("all_tokens", f"all_tokens_{epochs}").mean / (20 - epochs) > 0.5


def test_what_the_chapter_says_of_the_curriculum_is_recorded():
    """In words: two of nine intervals keep clear of zero, and there the arm with more operations is more accurate."""
    one = answer("curriculum")
    clear = [effect for effect in one.effects if effect.t_low > 0 or effect.t_high < 0]
    assert (len(clear), len(one.effects)) == (2, 9)
    ptd = one.recipes["ptd"]
    assert (ptd.drop_start, ptd.drop_end, ptd.epochs) == (4, 14, 20)
    for effect in clear:
        assert len(effect.seeds) == 2 and abs(effect.differences[0] - effect.differences[1]) < 0.0201
        assert (effect.mean > 0) == (effect.predicted < 1)


@pytest.mark.skipif(not LOGS.is_dir(), reason="the original's logs are not at ../shared/reference")
def test_what_is_said_of_the_logs_is_in_them():
    with open(LOGS / "baseline_metrics.csv") as file:
        baseline = list(csv.DictReader(file))
    with open(LOGS / "ptd_aug_metrics.csv") as file:
        ptd = list(csv.DictReader(file))
    logged = " ".join(claim.logged for claim in claims.CLAIMS)
    last, best = float(ptd[-1]["val_acc_ema"]), max(float(row["val_acc_ema"]) for row in ptd)
    assert float(baseline[-1]["val_acc"]) == max(float(row["val_acc"]) for row in baseline) == 71.59
    raw, training = float(ptd[-1]["val_acc_raw"]), float(baseline[-1]["train_acc"])
    assert f"{last:.2f} % in the last epoch, {raw:.2f} % raw; {best:.2f} % is the best" in logged
    assert f"{last - 71.59:.2f} points in the last epoch" in logged and f"{training:.1f} %" in logged
    assert round(float(ptd[-1]["train_acc_clean"]), 1) == 53.5  # of mixed images, whatever the column is called
    seconds = [float(row["epoch_time_sec"]) for row in ptd]  # with evaluation, which takes as long in every epoch
    whole, one_less = statistics.median(seconds[1:41]), seconds[41]
    at_once = len(seconds[41:]) * (whole - one_less) / (len(seconds) * whole - sum(seconds))
    assert 0.4 < at_once < 0.5 and "nearly half of what it saves came at once" in logged


@pytest.mark.parametrize("folder", sorted(path.parent for path in RECORDS.glob("*/runs.csv")), ids=lambda p: p.name)
def test_published_runs_are_those_that_the_question_asks_for(folder):
    one = answer(folder.name)
    recipes = {run.name: run.recipe.fingerprint for run in one.plan.runs}
    begun = {run.cell for run in one.plan.runs if "then" in run.cell}  # with weights, which are not here to be digested
    told = {run.run: run.fingerprint for run in one.runs if run.cell not in begun}
    assert told.items() <= recipes.items() and {run.run for run in one.runs} <= set(recipes)
    assert (folder / "effects.csv").exists() == bool(one.effects)
    if not one.effects:
        return
    with open(folder / "effects.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, effect in zip(rows, one.effects, strict=True):
        for field in dataclasses.fields(effect):
            value = getattr(effect, field.name)
            told = ";".join(map(repr, value)) if isinstance(value, tuple) else "" if value != value else str(value)
            assert row[field.name] == told
        assert row["verdict"] == effect.verdict
    assert effects_table(one.effects).count("\n") == len(rows) + 1
