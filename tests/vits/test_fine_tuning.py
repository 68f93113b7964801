"""Frozen layers and learning rates by layer: against the rule written out, AdamW by hand, and whole runs."""

import copy

import pytest
import timm
import torch
from conftest import equal, without_clocks
from test_model import small
from torch import nn

from ptd_core.errors import RecipeError
from ptd_core.rivals.rival import NETWORKS
from ptd_core.token_drop import TokenDropViT
from ptd_core.trainer import Trainer
from ptd_core.vits.fine_tuning import freeze, parameter_groups, training_mode

TIMM = {"img_size": 32, "patch_size": 4, "depth": 3, "embed_dim": 16, "num_heads": 2, "num_classes": 5}
OF_TIMM = {"timm": {}, "registers": {"reg_tokens": 2}, "pre-norm": {"pre_norm": True}}
STEM = {
    "hybrid": ("stem.", "cls_token", "pos_embed"),
    **dict.fromkeys(OF_TIMM, ("patch_embed.", "cls_token", "pos_embed", "reg_token", "norm_pre.")),
}


@pytest.fixture(params=STEM)
def named_vit(request):
    kind = request.param
    vit = small() if kind == "hybrid" else timm.create_model("vit_tiny_patch16_224", **TIMM, **OF_TIMM[kind])
    return kind, vit


def layer_of(kind, name):
    """0 for the stem, 1 to 3 for the blocks, 4 for the head, by names alone."""
    if name.startswith(STEM[kind]):
        return 0
    if name.startswith("blocks."):
        return 1 + int(name.split(".")[1])
    return 3 if name.startswith("norm.") else 4


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_the_first_layers_are_frozen(named_vit, blocks):
    kind, vit = named_vit
    freeze(vit, blocks)
    for name, parameter in vit.named_parameters():
        assert parameter.requires_grad is (blocks == 0 or layer_of(kind, name) > blocks), name
    with pytest.raises(ValueError, match="from 0 to the 3 blocks of the ViT; got 4"):
        freeze(vit, 4)


def test_learning_rates_fall_from_the_head_to_the_stem(named_vit):
    kind, vit = named_vit
    freeze(vit, 1)
    groups = parameter_groups(TokenDropViT(vit), 0.05, 0.5)
    scales = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    expected = {p: 0.5 ** (4 - layer_of(kind, name)) for name, p in vit.named_parameters() if layer_of(kind, name) > 1}
    assert scales == expected
    assert {group["weight_decay"] for group in groups} == {0.05}
    (one,) = parameter_groups(TokenDropViT(vit), 0.05, 1.0)
    assert one == {"params": list(expected)}


def test_what_a_method_adds_learns_as_the_head_does(named_vit):
    _, vit = named_vit
    network = NETWORKS["dynamicvit"](vit, (1,), copy.deepcopy(vit))
    groups = parameter_groups(network, 0.1, 0.5)
    assert groups[-1]["lr_scale"] == 1.0 and groups[-1]["params"] == list(network.predictors.parameters())
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_a_step_moves_each_layer_by_its_rate(tiny, tiny_shapes):
    """The first step of AdamW moves a weight by its learning rate, and weight decay by that times decay."""
    trainer = Trainer(tiny(layer_decay=0.5, weight_decay=0.1, warmup_epochs=0, ema_decay=0.0), tiny_shapes)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    rate = trainer._set_lr(0)
    trainer.model.train()
    trainer.step(next(trainer.batches.epoch(0)), None)
    for name, parameter in trainer.model.named_parameters():
        layer = 0 if name.startswith(STEM["hybrid"]) else 2 if name.startswith("norm") else 3
        layer = 1 + int(name.split(".")[1]) if name.startswith("blocks") else layer
        seen = parameter.grad.abs() > 1e-6  # beside AdamW's epsilon
        expected = rate * 0.5 ** (3 - layer)
        moved = (parameter - before[name] * (1 - 0.1 * expected))[seen].abs()
        torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=0.05, atol=1e-7, msg=name)


@pytest.mark.parametrize("settings", [{}, {"drop_method": "dynamicvit", "drop_block": 1}, {"drop_score": "gradient"}])
def test_frozen_weights_and_statistics_stay_also_in_a_resumed_run(tiny, tiny_shapes, settings):
    recipe = tiny(frozen_blocks=1, layer_decay=0.7, **settings)
    whole, first, second = (Trainer(recipe, tiny_shapes) for _ in range(3))
    before = copy.deepcopy(whole.model.state_dict())
    expected = without_clocks(whole.epochs())
    for model in (whole.model, whole.averaged.module):
        for name, value in model.state_dict().items():
            frozen = name.startswith((*STEM["hybrid"], "blocks.0."))  # among them statistics of batch norm
            assert torch.equal(value, before[name]) is frozen, name
    begun = [next(first.epochs())]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert without_clocks([*begun, *second.epochs()]) == expected
    assert equal(second.model.state_dict(), whole.model.state_dict())


def test_frozen_batch_norm_normalises_as_in_evaluation():
    vit = small()
    images = torch.randn(4, 3, 16, 16)
    training_mode(vit)
    vit(images)  # statistics of some training
    freeze(vit, 1)
    training_mode(vit)
    assert (
        vit.training
        and vit.blocks[0].training
        and not any(module.training for module in vit.modules() if isinstance(module, nn.BatchNorm2d))
    )
    assert torch.equal(vit.stem(images), vit.eval().stem(images))


def test_more_frozen_blocks_than_there_are_is_refused(tiny):
    with pytest.raises(RecipeError, match="frozen_blocks = 3, depth = 2: frozen_blocks must be from 0 to 2"):
        tiny().replace(frozen_blocks=3)
    assert tiny(frozen_blocks=2).fingerprint != tiny().fingerprint == tiny(layer_decay=1.0).fingerprint
