"""The bench of methods: each with its own settings at half of the tokens, beside the order of the methods' own code."""

import math

import pytest
import torch
from definition import assert_same_with_gradients
from test_model import small

from ptd_core.bench.report import section_table
from ptd_core.bench.space import ALL, GATHER, GatherAfterAttention, keep_of, methods, space
from ptd_core.bench.workload import Workload
from ptd_core.cost import cost
from ptd_core.paths import PROJECT_ROOT
from ptd_core.token_drop import TokenDrop, TokenDropViT

FILES = sorted(path.stem for path in (PROJECT_ROOT / "parameters" / "space").glob("*.yaml"))


@pytest.fixture
def base(tiny):
    return tiny(depth=6, mixup_alpha=0.0, cutmix_alpha=0.0, rand_ops=0, batch_size=8, dropout=0.0, drop_path=0.0)


def test_every_method_drops_as_its_file_says_and_keeps_half(base):
    found = {name: (recipe, keep) for name, recipe, keep in methods(base)}
    assert list(found) == FILES and FILES
    evit, keep = found["evit"]
    assert evit.token_drop.blocks == (1, 2, 3) and evit.drop_fate == "fuse"
    ratio = next(r / 1000 for r in range(999, 0, -1) if evit.keep_at(r / 1000)[-1] >= 32)
    assert keep == evit.keep_at(ratio) and keep[-1] == 32
    assert {name: keep[-1] for name, (_, keep) in found.items()} == {
        **dict.fromkeys(FILES, 32), "tome": 34,  # 64 less a multiple of 6 blocks
    }  # fmt: skip
    assert found["random_ltd"][1] == (32, 32)  # back after each block


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_what_is_kept_is_the_share_that_is_asked_for(base, share):
    assert keep_of(base.replace(drop_blocks="0, 1"), share)[-1] == 64 * share


@pytest.mark.parametrize("policy", [TokenDrop((0, 2)), TokenDrop((1,), fate="bypass", until=3)], ids=str)
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
        name + gather for name in FILES for gather in ("", GATHER) if not gather or name in ("ptd", "skipvit")
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
    recipe, keep = next((recipe, keep) for name, recipe, keep in methods(base) if name == "dynamicvit")
    work = Workload(recipe)
    before = {name: value.clone() for name, value in work.trainer.step.network.named_parameters()}
    average = [value.clone() for value in work.trainer.averaged.module.parameters()]
    work.trainers_step(keep)()
    moved = {
        name for name, value in work.trainer.step.network.named_parameters() if not torch.equal(value, before[name])
    }
    assert any("predict" in name for name in moved) and any(name.startswith("vit.") for name in moved)
    assert any(not torch.equal(*pair) for pair in zip(average, work.trainer.averaged.module.parameters()))
