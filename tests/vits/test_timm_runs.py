"""timm's ViTs as models of a recipe: what is built, trained, saved and counted is what timm itself makes of it."""

import pytest
import timm
import torch
from conftest import TINY, Lines, equal, without_clocks
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from ptd_core.chapter.widgets import saliency_explorer
from ptd_core.cost import cost
from ptd_core.evaluation.policies import points, policies
from ptd_core.evaluation.ways import rows_of
from ptd_core.load import load_model
from ptd_core.machine.counted import count
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.token_drop import TokenDropViT
from ptd_core.trainer import Trainer

OWN = ("stem_width", "stem_stride", "embed_dim", "depth", "num_heads")  # of hybrid_vit alone
SIZES = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
SETTINGS = {name: value for name, value in TINY.items() if name not in OWN} | {
    "model": "vit_tiny_patch16_224", "model_args": "patch_size=4, embed_dim=24, depth=2, num_heads=3",
    "rand_ops": 0, "drop_final": 0.5,
}  # fmt: skip


@pytest.fixture
def tiny_timm(tmp_path):
    return lambda **settings: Recipe.from_values(
        {**SETTINGS, "out_dir": str(tmp_path), "run": "timm", "epochs": 2, **settings}
    )


@pytest.fixture
def images():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def logits(model, images):
    with torch.no_grad():
        return model.eval()(images)


def test_a_run_leaves_the_weights_of_timms_model(tiny_timm, tiny_shapes, tmp_path, images):
    done = execute(tiny_timm(attention="fused"), Lines(), dataset=tiny_shapes)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10, **SIZES)
    theirs.load_state_dict(load_file(done.folder / "weights.safetensors"))
    expected = logits(theirs, images)
    assert torch.equal(logits(load_model("timm", str(tmp_path)), images), expected)
    torch.testing.assert_close(logits(done.model, images), expected)  # its convolution is in another memory format
    recorded = done.record.recipe
    assert (recorded["model"], "weights" in recorded) == ("vit_tiny_patch16_224", False)
    assert done.record.model.parameters == sum(parameter.numel() for parameter in theirs.parameters())
    saliency_explorer(done)
    assert (done.folder / "ptd_saliency_explorer.html").exists() and (
        done.folder / "ptd_schedule_explorer.html"
    ).exists()
    (policy,) = policies(done.recipe, ["drop_score=norm"])
    whole, half = rows_of(done.model, done.recipe, tiny_shapes, points(policy, ["1", ".5"]))
    assert whole["accuracy"] == done.record.results.test_accuracy and half["kept"] == 8 and half["predicted"] > 1


def test_a_stopped_run_ends_as_it_would_have(tiny_timm, tiny_shapes, tmp_path):
    settings = {"dropout": 0.1, "drop_path": 0.1, "drop_start": 0, "drop_end": 1}
    whole = execute(tiny_timm(out_dir=str(tmp_path / "whole"), **settings), Lines(), dataset=tiny_shapes)

    class StopsWithin(Lines):
        def step(self, epoch, done, steps):
            if (epoch, done) == (1, 2):
                raise KeyboardInterrupt

    stopped = tiny_timm(out_dir=str(tmp_path / "stopped"), checkpoint_seconds=1e-9, **settings)
    with pytest.raises(KeyboardInterrupt):
        execute(stopped, StopsWithin(), dataset=tiny_shapes)
    lines = Lines()
    resumed = execute(stopped, lines, dataset=tiny_shapes)
    assert any("is resumed from epoch 2" in line for line in lines.printed)
    assert whole.records[0].kept_tokens == 16 and whole.records[1].kept_tokens == 8
    assert without_clocks(resumed.records) == without_clocks(whole.records)
    assert equal(resumed.trainer.state_dict()["model"], whole.trainer.state_dict()["model"])
    assert equal(resumed.model.state_dict(), whole.model.state_dict())


WAYS = [
    {},
    {"drop_fate": "fuse", "drop_blocks": "0, 1"},
    {"drop_fate": "skip", "drop_score": "random", "drop_attended": "kept"},
    {"drop_fate": "merge", "drop_score": "norm"},
    {"drop_score": "averaged_attention"},
    {"drop_score": "gradient"},
    {"drop_score": "oracle", "mixup_alpha": 0.0, "cutmix_alpha": 0.0},
    {"drop_method": "tome"},
    {"drop_method": "evo_vit", "drop_block": 1},
    {"drop_method": "dynamicvit"},
    {"size_stages": "8/16 at 1/1", "drop_final": 0.25},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_of_dropping_trains_it(tiny_timm, tiny_shapes, way):
    settings = {"drop_shape": "flat", "drop_start": 0, "subset": 64, "test_subset": 30, **way}
    recipe = tiny_timm(**settings)
    trainer = Trainer(recipe, tiny_shapes)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    records = list(trainer.epochs())
    assert len(records) == 2 and all(keep is not None for keep in recipe.keeps)
    assert not any(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
    assert "dynamic_img_size" not in recipe.model_args and trainer.model.dynamic_img_size == bool(recipe.size_stages)


def test_without_a_class_token_scores_that_need_none_train_it(tiny_timm, tiny_shapes):
    recipe = tiny_timm(
        model_args="class_token=false, depth=2, embed_dim=24, global_pool=avg, num_heads=3, patch_size=4, reg_tokens=2",
        drop_score="attention_received", drop_shape="flat", drop_start=0,
    )  # fmt: skip
    trainer = Trainer(recipe, tiny_shapes)
    assert (recipe.vit.prefix_tokens, len(list(trainer.epochs()))) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ("", {}),
        ("reg_tokens=2, qk_norm=true, init_values=0.1", {"drop_fate": "fuse", "drop_blocks": "0, 1"}),
        ("mlp_ratio=2.5, qkv_bias=false", {"drop_fate": "merge", "drop_attended": "kept"}),
        ("class_token=false, global_pool=map", {"drop_score": "attention_received"}),
        ("reg_tokens=1", {"drop_fate": "skip", "drop_score": "class_attention_value"}),
    ],
)
@pytest.mark.parametrize("keep", [3, 9])
def test_cost_is_what_torch_counts(tiny_timm, arguments, settings, keep):
    """With arithmetic, in training mode, on two images."""
    recipe = tiny_timm(model_args=f"{SETTINGS['model_args']}, {arguments}".rstrip(", "), **settings)
    drop, vit = recipe.token_drop, recipe.vit
    keep = (keep,) if len(drop.blocks) == 1 else (keep, 2)
    network = TokenDropViT(vit.build(7, "explicit").train(), drop)
    with FlopCounterMode(display=False) as counter:
        loss = network(torch.randn(2, 3, 16, 16), keep).sum()
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    expected = cost(vit, 7, drop, keep)
    assert forward == 2 * expected.forward and forward + counter.get_total_flops() == 2 * expected.training
    assert count(network.vit, torch.randn(2, 3, 16, 16)) == cost(vit, 7)


@pytest.mark.parametrize(
    ("name", "side", "stride", "prefix"),
    [("deit_tiny_distilled_patch16_224", 64, 16, 2), ("deit3_small_patch16_224", 48, 16, 1),
     ("vit_tiny_r_s16_p8_224", 64, 32, 1), ("vit_giant_patch14_dinov2", 28, 14, 1)],
)  # fmt: skip
def test_published_models_are_described_as_they_are(name, side, stride, prefix):
    """Also with a convolutional embedding, SwiGLU and a distillation token; nothing is computed."""
    recipe = Recipe(model=name, model_args="depth=4", image_size=side, drop_block=3)
    vit, drop = recipe.vit, recipe.token_drop
    assert (vit.stride, vit.prefix_tokens, vit.patch_tokens) == (stride, prefix, (side // stride) ** 2)
    with torch.device("meta"):
        theirs = timm.create_model(name, img_size=side, num_classes=7, depth=4).train()
    for block in theirs.blocks:
        block.attn.fused_attn = False
    images = torch.empty(2, 3, side, side, device="meta")
    assert (vit.depth, vit.num_heads) == (4, theirs.blocks[0].attn.num_heads)
    assert count(TokenDropViT(theirs, drop), images, (2,)) == cost(vit, 7, drop, (2,))


def test_weights_follow_from_the_seed_as_timm_draws_them(tiny_timm, images):
    one, same, other = (tiny_timm(seed=seed).vit for seed in (0, 0, 1))
    torch.manual_seed(5)
    built = one.build(10)
    torch.manual_seed(5)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10, **SIZES)
    assert one == same == other and torch.equal(logits(built, images), logits(theirs, images))
    state = torch.get_rng_state()
    tiny_timm(model_args="patch_size=8", drop_score="norm")  # what a recipe asks of a model draws nothing
    assert torch.equal(torch.get_rng_state(), state)


def test_a_colon_stands_for_an_equals_sign(tiny_timm):
    """papermill cannot read a line of a parameters cell that has two of them."""
    one, other = (tiny_timm(model_args=SETTINGS["model_args"].replace("=", sign)) for sign in "=:")
    assert one == other and one.fingerprint == other.fingerprint
