"""The bench of methods: each with its own settings at half of the tokens, beside the order of the methods' own code."""

import math

import pytest
import torch
from definition import assert_same_with_gradients
from test_model import small

from ptd_core.bench.report import section_table
from ptd_core.bench.space import ALL, GATHER, GatherAfterAttention, space
from ptd_core.bench.workload import Workload
from ptd_core.cost import cost
from ptd_core.evaluation.methods import keep_of, methods
from ptd_core.paths import PROJECT_ROOT
from ptd_core.token_drop import TokenDrop, TokenDropViT

FILES = sorted(path.stem for path in (PROJECT_ROOT / "parameters" / "space").glob("*.yaml"))


@pytest.fixture
def base(tiny):
    return tiny(depth=6, mixup_alpha=0.0, cutmix_alpha=0.0, rand_ops=0, batch_size=8, dropout=0.0, drop_path=0.0)


@pytest.mark.parametrize(
    "policy", [TokenDrop((0, 2)), TokenDrop((0, 2), fate="fuse"), TokenDrop((1,), fate="bypass", until=3)], ids=str
)
def test_a_gather_after_attention_gives_the_same(policy):
    vit, images = small().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    keep = (40, 17)[: len(policy.blocks)]
    with torch.no_grad():
        expected = TokenDropViT(vit, policy)(images, keep)
        torch.testing.assert_close(GatherAfterAttention(vit, policy)(images, keep), expected)
    ours = TokenDropViT(vit, policy)(images, keep)
    assert_same_with_gradients(vit, GatherAfterAttention(vit, policy)(images, keep), ours, atol=1e-9)


def test_the_table_has_all_methods_their_prediction_and_what_they_hold(base, monkeypatch):
    stepped = []
    monkeypatch.setattr("ptd_core.bench.space.peak_of", lambda step, device: stepped.append(step) or 7)
    rows = space(Workload(base), 1)
    assert [row["case"] for row in rows] == [ALL] + [
        name + gather for name in FILES for gather in ("", GATHER) if not gather or name in ("evit", "ptd", "skipvit")
    ]
    assert len(stepped) == len(rows) and all(row["peak_bytes"] == 7 for row in rows)
    ptd = next(row for row in rows if row["case"] == "ptd")
    whole = cost(base.vit, 100).training
    assert ptd["predicted"] == whole / cost(base.vit, 100, TokenDrop((0,)), (32,)).training
    assert rows[0]["speedup"] == rows[0]["predicted"] == 1
    assert all(row["speedup"] > 0 and not math.isnan(row["median_seconds"]) for row in rows)
    assert "| ptd, gather after attention |" in section_table("space", rows)


def test_the_trainers_step_is_that_of_the_method(base):
    """It trains: the weights, and the predictor of a method that has one, are other ones afterwards."""
    recipe = methods(base)["dynamicvit"]
    keep = keep_of(recipe)
    work = Workload(recipe)
    before = {name: value.clone() for name, value in work.trainer.step.network.named_parameters()}
    average = [value.clone() for value in work.trainer.averaged.module.parameters()]
    work.trainers_step(keep)()
    moved = {
        name for name, value in work.trainer.step.network.named_parameters() if not torch.equal(value, before[name])
    }
    assert any("predict" in name for name in moved) and any(name.startswith("vit.") for name in moved)
    assert any(not torch.equal(*pair) for pair in zip(average, work.trainer.averaged.module.parameters()))
