"""The tables of a sweep whose arms have controls, from runs that were made up."""

import csv

import pytest
import yaml
from conftest import TINY

from ptd_core.records.finished_runs import FinishedRun
from ptd_core.records.history import EpochRecord
from ptd_core.records.ledger import time_ledger
from ptd_core.records.run_record import ModelFacts, Results, RunRecord, Times
from ptd_core.sweep.plan import read_plan
from ptd_core.sweep.report import save_tables

ARMS = "{all_tokens: {drop_final: 0.0}, late: {drop_block: 1}}"
EPOCH = EpochRecord(0, 1e-3, 0.1, 41, 2.5, 30.0, 44.0, 2.2, 40.0, 2.1, 42.5, 10.0, 0.5, 1.0, 400.0)


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**TINY, "run": "tiny", "out_dir": str(tmp_path)}))
    (tmp_path / "try.yaml").write_text(
        f"{{base: base.yaml, arms: {ARMS}, controls: {{late: [all_tokens]}}, seeds: [0, 1]}}"
    )
    plan = read_plan(tmp_path / "try.yaml")
    plan.folder.create()
    return plan


def result(run, accuracy, seconds, precision="fp32"):
    recipe = run.recipe
    record = RunRecord(
        run=run.name, chapter=recipe.chapter, seed=recipe.seed, finished=True, recipe=recipe.settings(), data="0f",
        device="D", versions={"torch": "2"}, commit="abc", precision=precision, attention="fused", compilation="off",
        processes=1, made="2026-01-01", epochs=1,
        model=ModelFacts(parameters=1, training_flops_per_image=1, training_flops=1, predicted_speedup=1.0),
        results=Results(
            test_accuracy=accuracy, test_accuracy_raw=accuracy, clean_train_accuracy=accuracy, best_on_test=accuracy
        ),
        times=Times(train_seconds=seconds, eval_seconds=1.0), time_ledger=time_ledger([EPOCH], 64),
    )  # fmt: skip
    return FinishedRun.of(record, run.cell, recipe.fingerprint, run.levels), [EPOCH]


ACCURACIES = {("all_tokens", 0): 40.0, ("all_tokens", 1): 41.0, ("late", 0): 40.5, ("late", 1): 41.25}


def results(plan, **changed):
    found = {}
    for run in plan.runs:
        arm = run.cell.removeprefix("tiny_")
        found[run.name] = result(run, ACCURACIES[arm, run.recipe.seed], 20.0 if arm == "late" else 30.0, **changed)
    return found


def test_arms_are_compared_with_their_controls(plan):
    printed = save_tables(plan, results(plan))
    (row,) = csv.DictReader((plan.folder.path / "effects.csv").open())
    assert (row["arm"], row["control"], row["differences"]) == ("tiny_late", "tiny_all_tokens", "0.5;0.25")
    assert float(row["mean"]) == 0.375 and float(row["faster"]) == 1.5
    assert "| tiny_late | tiny_all_tokens | 2 | +0.38 | +0.25 to +0.50 |" in printed
    assert (plan.folder.path / "effects.png").stat().st_size > 1000


def test_what_has_no_partner_yet_is_not_compared(plan):
    save_tables(plan, results(plan))
    early = {name: one for name, one in results(plan).items() if "late" in name}
    assert "control" not in save_tables(plan, early)
    assert not (plan.folder.path / "effects.csv").exists()


def test_precisions_are_not_mixed(plan):
    other = {name: one for name, one in results(plan, precision="bf16").items() if "late" in name}
    assert "control" not in save_tables(plan, results(plan) | other)
