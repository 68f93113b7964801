"""Operation counts against torch's own counter, and against the limits that the method's schedule has."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ptd_core.cost import cost, run_training_cost
from ptd_core.machine.counted import count, saved_bytes
from ptd_core.model import HybridViT, ViTConfig
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.rivals.rival import Rival
from ptd_core.saliency import GIVEN, SCORES
from ptd_core.token_drop import ATTENDED, TokenDrop, TokenDropViT
from ptd_core.tokens.fates import FATES
from ptd_core.tokens.given import AveragedAttention
from ptd_core.trainer import build_model
from ptd_core.vits.fine_tuning import freeze

PUBLISHED = {
    "stem_width": 64,
    "stem_stride": 2,
    "embed_dim": 192,
    "depth": 6,
    "num_heads": 6,
    "epochs": 200,
    "drop_start": 40,
    "drop_end": 140,
}


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"depth": 3, "stem_stride": 4, "embed_dim": 48, "mlp_ratio": 2.5},
        {"stem_stride": 1, "image_size": 8, "qkv_bias": False},
    ],
)
@pytest.mark.parametrize("drop_block", [0, 2])
@pytest.mark.parametrize("keep", [None, 7, 33])
def test_agrees_with_torchs_counter(sizes, drop_block, keep):
    recipe = Recipe(drop_block=drop_block, **sizes)
    # Explicit attention: the counter's rule for the fused kernel's backward adds the recomputation of its forward.
    network = TokenDropViT(build_model(recipe, 10, "explicit").train(), recipe.token_drop)
    images = torch.randn(2, 3, recipe.image_size, recipe.image_size)
    keep = keep and (keep,)
    with FlopCounterMode(display=False) as counter:
        loss = network(images, keep).sum()
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    expected = cost(recipe.vit, 10, recipe.token_drop, keep)
    assert forward == 2 * expected.forward
    assert forward + counter.get_total_flops() == 2 * expected.training


@pytest.mark.parametrize(
    ("blocks", "keep"), [((0,), (20,)), ((1,), (64,)), ((0, 2), (40, 9)), ((0, 1, 2), (50, 50, 3))]
)
def test_counting_on_the_meta_device_equals_the_closed_form(blocks, keep):
    vit, drop = ViTConfig(img_size=16, stem_width=8, embed_dim=32, depth=3, num_heads=4), TokenDrop(blocks)
    with torch.device("meta"):
        network = TokenDropViT(vit.build(7, "explicit").train(), drop)
    images = torch.empty(4, 3, 16, 16, device="meta")
    assert count(network, images, keep) == cost(vit, 7, drop, keep)
    assert count(network.vit, images) == cost(vit, 7)


def policies():
    """Every score, choice, fate and place, each with what it goes with."""
    for fate, attended in itertools.product(FATES, ATTENDED):
        yield TokenDrop((1,) if fate == "bypass" else (0, 1), fate=fate, attended=attended,
                        until=2 if fate == "bypass" else None)  # fmt: skip
    for score, attended in itertools.product(SCORES, ATTENDED):
        yield TokenDrop((0, 1), score, attended=attended)
    yield TokenDrop((0, 1), "distance", "greedy", "merge", "kept")
    yield TokenDrop((0, 1), "random", "sample")


def with_given(network):
    """The network, with whoever gives its score if it needs one."""

    def forward(images, keep):
        if network.drop.score == "averaged_attention":
            return network(images, keep, AveragedAttention(network.vit, 2)(images))
        given = torch.empty(4, 64, device="meta", requires_grad=network.drop.score == "gradient")
        return network(images, keep, given if network.drop.score in GIVEN else None)

    return forward


@pytest.mark.parametrize("drop", list(policies()), ids=str)
def test_every_policy_costs_what_torch_counts(drop):
    vit = ViTConfig(img_size=16, stem_width=8, embed_dim=32, depth=3, num_heads=4)
    with torch.device("meta"):
        network = TokenDropViT(vit.build(7, "explicit").train(), drop)
    keep = (40, 9)[-len(drop.blocks) :]
    counted = count(with_given(network), torch.empty(4, 3, 16, 16, device="meta"), keep)
    assert counted == cost(vit, 7, drop, keep)
    assert cost(vit, 7, drop, keep).training < cost(vit, 7).training


def test_smaller_images_cost_what_torch_counts():
    vit = ViTConfig(img_size=16, stem_width=8, embed_dim=32, depth=3, num_heads=4)
    with torch.device("meta"):
        network = vit.build(7, "explicit").train()
    small, full = (count(network, torch.empty(4, 3, side, side, device="meta")).training for side in (12, 16))
    drop = TokenDrop()
    assert run_training_cost(vit, 7, drop, [None, None, None], [12, 12, 16]) == (2 * small + full, 3 * full)


def test_published_model_costs_what_the_method_says():
    recipe = Recipe(**PUBLISHED)
    whole = cost(recipe.vit, 100)
    assert whole.forward / 2 == pytest.approx(0.912e9, rel=1e-3)
    assert whole.training == pytest.approx(5.466e9, rel=1e-3)
    assert cost(recipe.vit, 100, recipe.token_drop, (166,)).training / whole.training == pytest.approx(0.6549, abs=1e-4)


def test_what_operations_predict_for_the_published_curriculum_in_each_block():
    predicted = []
    for block in range(6):
        recipe = Recipe(drop_block=block, **PUBLISHED)
        with_drop, without = run_training_cost(recipe.vit, 100, recipe.token_drop, recipe.keeps)
        predicted.append(without / with_drop)
    assert predicted == pytest.approx([1.194, 1.155, 1.118, 1.084, 1.052, 1.022], abs=6e-4)


def test_keep_all_is_no_drop_and_bad_keep_is_refused():
    vit, drop = ViTConfig(), TokenDrop()
    assert cost(vit, 10, drop, (256,)) == cost(vit, 10, drop, None) == cost(vit, 10)
    for keep in ((0,), (257,)):
        with pytest.raises(ValueError, match=rf"from 1 to the 256 patch tokens; got {keep[0]}"):
            cost(vit, 10, drop, keep)
    with pytest.raises(ValueError, match=r"one number for each of the blocks \(0,\); got \(5, 4\)"):
        cost(vit, 10, drop, (5, 4))
    with pytest.raises(ValueError, match="needs the policy"):
        cost(vit, 10, None, (5,))


def test_imagenet_figures_on_paper():
    """Operations of 300 epochs of ImageNet-1k at 224 px, and hours at 30 % of 989 TFLOPS a GPU (H100, dense bf16)."""
    published = Recipe.from_yaml(PROJECT_ROOT / "parameters" / "ptd_aug.yaml")
    large = {"dataset": "folder", "image_size": 224, "stem_stride": 8, "epochs": 300, "drop_start": 60, "drop_end": 210}
    expected = {192: ("9.0", "7.4", "1.22"), 384: ("52.9", "43.2", "1.22")}
    hours = {192: ("0.9", "0.11"), 384: ("5.1", "0.63")}
    kept, rates = {192: ("70", "51"), 384: ("246", "167")}, {192: (119, 18), 384: (21, 3.2)}
    images = torch.zeros(2, 3, 224, 224)
    for width, depth in ((192, 6), (384, 12)):
        recipe = published.replace(**large, embed_dim=width, depth=depth)
        assert recipe.vit.patch_tokens == 784
        dropping, whole = (
            1_281_167 * operations
            for operations in run_training_cost(recipe.vit, 1000, recipe.token_drop, recipe.keeps)
        )
        assert (f"{whole / 1e18:.1f}", f"{dropping / 1e18:.1f}", f"{whole / dropping:.2f}") == expected[width]
        for gpus, figure in zip((8, 64), hours[width]):
            took = dropping / (gpus * 0.3 * 989e12) / 3600
            assert f"{took:.{len(figure.split('.')[1])}f}" == figure
        network = recipe.token_drop.network(recipe.vit.build(1000).train(), None)
        assert tuple(f"{saved_bytes(network, images, keep) / 1e6:.0f}" for keep in (None, (509,))) == kept[width]
        second = 300 * 1_281_167 / (float(hours[width][0]) * 3600)
        assert (round(second / 1e3), pytest.approx(second * 3 * 224**2 / 1e9, rel=0.02)) == rates[width]
    assert recipe.schedule.kept(299, 784) == 509
    assert 1_281_167 * 3 * 224**2 == pytest.approx(193e9, rel=1e-3)


def test_what_is_kept_for_the_backward_pass_is_every_part_s_input():
    """Of a block: what goes into norms, products and GELU, queries, keys, values, and what norms and attention add."""
    mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    assert saved_bytes(mlp, torch.zeros(5, 8)) == 4 * (32 + 32)  # not the images, not the weights
    tokens, width, heads = 65, 64, 2
    vits = [
        HybridViT(10, img_size=32, stem_stride=4, embed_dim=width, depth=depth, num_heads=heads) for depth in (1, 2)
    ]
    one, two = (saved_bytes(vit.train(), torch.zeros(3, 3, 32, 32)) for vit in vits)
    per_token = 2 * (width + width) + 3 * width + width + 2 * 4 * width  # norms and products after; q, k, v; out; MLP
    assert two - one == 4 * tokens * (per_token + 2 * 2 + heads)
    with torch.no_grad():
        assert saved_bytes(mlp, torch.zeros(5, 8)) == 0


@pytest.mark.parametrize("frozen", [1, 3])
@pytest.mark.parametrize("drop", list(policies()), ids=str)
def test_frozen_blocks_cost_what_torch_counts(drop, frozen):
    vit, keep = ViTConfig(img_size=16, stem_width=8, embed_dim=32, depth=3, num_heads=4), (40, 9)[-len(drop.blocks) :]
    with torch.device("meta"):
        model = vit.build(7, "explicit").train()
    freeze(model, frozen)
    images = torch.empty(4, 3, 16, 16, device="meta")
    counted = count(with_given(TokenDropViT(model, drop)), images, keep)
    assert counted == cost(vit, 7, drop, keep, frozen_blocks=frozen)
    if drop.score == "gradient":  # which is learned in epochs that drop nothing, too
        whole = count(lambda images: with_given(TokenDropViT(model, drop))(images, None), images)
        assert whole == cost(vit, 7, drop, None, frozen_blocks=frozen)
    assert count(model, images) == cost(vit, 7, frozen_blocks=frozen)


def test_a_rival_with_frozen_blocks_costs_less():
    vit, drop = ViTConfig(img_size=16, stem_width=8, embed_dim=32, depth=3, num_heads=4), Rival("tome", (0,), 3)
    keep = drop.nearest(40, 64)
    whole, frozen = (cost(vit, 7, drop, (keep,), frozen_blocks=blocks) for blocks in (0, 3))
    assert frozen.forward == whole.forward and frozen.forward < frozen.training < 1.01 * whole.forward


@pytest.mark.parametrize("block", [0, 2, -1])
def test_the_averaged_model_is_paid_for_up_to_the_block_that_it_is_asked_in(block):
    recipe = Recipe(drop_score="averaged_attention", drop_score_block=block, depth=3)
    vit, keep, images = recipe.vit, (33,), torch.randn(2, 3, recipe.image_size, recipe.image_size)
    given = TokenDrop((0,), "random")
    with FlopCounterMode(display=False) as counter:
        AveragedAttention(vit.build(10, "explicit").eval(), block % 3)(images)
    asked, without = recipe.cost(10, keep), cost(vit, 10, given, keep)
    assert asked.forward - without.forward == asked.training - without.training == counter.get_total_flops() // 2
    assert recipe.cost(10) == cost(vit, 10)
    ours, whole = recipe.replace(drop_start=0, drop_end=0, drop_final=0.5, epochs=2, warmup_epochs=0).training_cost(10)
    assert ours == 2 * recipe.cost(10, (vit.patch_tokens // 2,)).training and whole == 2 * cost(vit, 10).training
