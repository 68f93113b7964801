"""Settings of token drop and of image sizes: change one alone, and look for its own consequence."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from reach import collector

from ptd_core.rivals.dynamicvit import DynamicViT
from ptd_core.rivals.evo_vit import EvoViT
from ptd_core.rivals.tome import ToMeViT
from ptd_core.token_drop import TokenDropViT
from ptd_core.trainer import Trainer

CHECKS, reaches = collector()

HALF = {"drop_shape": "flat", "drop_start": 0, "drop_final": 0.5}  # of 64 tokens 32, in every epoch


@reaches("drop_init", "drop_final", "drop_start", "drop_end", "drop_gamma", "drop_hold")
def curriculum(bench):
    """Of 64 tokens; between start and end the ratio has risen by (part of the way) ** gamma."""
    base = {"epochs": 6, "drop_init": 0.25, "drop_final": 0.5, "drop_start": 1, "drop_end": 5, "drop_gamma": 1.0}
    assert bench.kept(**base) == [48, 48, 44, 40, 36, 32]
    assert bench.kept(**{**base, "drop_init": 0.0}) == [64, 64, 56, 48, 40, 32]
    assert bench.kept(**{**base, "drop_final": 0.75}) == [48, 48, 40, 32, 24, 16]
    assert bench.kept(**{**base, "drop_start": 3}) == [48, 48, 48, 48, 40, 32]
    assert bench.kept(**{**base, "drop_end": 3}) == [48, 48, 40, 32, 32, 32]
    assert bench.kept(**{**base, "drop_gamma": 2.0}) == [48, 48, 47, 44, 39, 32]
    assert bench.kept(**{**base, "drop_hold": False}) == [48, 48, 44, 40, 36, 64]


def note_tokens(seen, number, module, given):
    if module.training:
        seen.setdefault(number, given[0].shape[1])


@reaches("drop_block")
def drop_block(bench):
    for block in (0, 1, 2):
        trainer, seen = bench.trainer(depth=4, drop_block=block, epochs=1, drop_end=0), {}
        for number, module in enumerate(trainer.model.blocks):
            module.register_forward_pre_hook(partial(note_tokens, seen, number))
        next(trainer.epochs())  # the block that drops is run in parts, without its hooks
        assert seen == {number: 65 if number < block else 33 for number in range(4) if number != block}


def tokens_in_blocks(bench, **settings):
    """Tokens, with the class token, that reach each block which runs as a whole, in a run's first step."""
    trainer, seen = bench.trainer(depth=4, epochs=1, **{**HALF, **settings}), {}
    for number, module in enumerate(trainer.model.blocks):
        module.register_forward_pre_hook(partial(note_tokens, seen, number))
    next(trainer.epochs())
    return seen


@reaches("drop_method")
def method(bench):
    kinds = {"token_drop": TokenDropViT, "tome": ToMeViT, "evo_vit": EvoViT, "dynamicvit": DynamicViT}
    for name, kind in kinds.items():
        block = 0 if name == "tome" else 1  # it merges in every block
        trainer = bench.trainer(**HALF, drop_method=name, drop_block=block, ema_decay=0.5, depth=3)
        assert type(trainer.step.network) is kind and trainer.step.network.vit is trainer.model
    assert tokens_in_blocks(bench, drop_method="evo_vit", drop_block=2) == {0: 65, 1: 65, 2: 34, 3: 34}


def test_weights_of_a_methods_own_are_part_of_the_state(bench):
    settings = {**HALF, "drop_method": "dynamicvit", "ema_decay": 0.5, "epochs": 2}
    whole, half = bench.trainer(**settings), bench.trainer(**settings)
    fresh = [weight.clone() for weight in whole.step.network.predictors.parameters()]
    records = list(whole.epochs())
    assert all(not torch.equal(a, b) for a, b in zip(fresh, whole.step.network.predictors.parameters()))
    next(half.epochs())
    state = half.state_dict()
    resumed = bench.trainer(**settings)
    resumed.load_state_dict({**state, "next_epoch": 1, "partial": None})
    (last,) = resumed.epochs()
    assert last.train_loss == records[1].train_loss
    other = bench.trainer(**settings, seed=1).step.network.predictors.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(fresh, other))


@reaches("drop_blocks", "drop_shares")
def several_blocks(bench):
    assert bench.keeps(**HALF, drop_blocks="0, 1") == [(32, 16)] * 3  # each half of what reaches it
    assert bench.keeps(**HALF, drop_blocks="0, 1", drop_shares="1, .5") == [(32, 24)] * 3
    assert tokens_in_blocks(bench, drop_blocks="0, 2") == {1: 33, 3: 17}


@reaches("drop_shape", "drop_stages", "drop_cycle")
def shapes(bench):
    base = {"epochs": 6, "drop_init": 0.25, "drop_final": 0.5, "drop_start": 1, "drop_end": 5, "drop_gamma": 1.0}
    assert bench.kept(**base, drop_shape="reversed") == [32, 36, 40, 44, 48, 48]
    assert bench.kept(**base, drop_shape="cosine") == [48, 48, 45, 40, 34, 32]
    assert bench.kept(**base, drop_shape="flat") == [48, 32, 32, 32, 32, 32]
    assert bench.kept(**base, drop_shape="cyclic", drop_cycle=2) == [48, 48, 32, 48, 32, 48]
    assert bench.kept(**base, drop_shape="cyclic", drop_cycle=4) == [48, 48, 40, 32, 40, 48]
    steps = {**base, "drop_shape": "steps"}
    assert bench.kept(**steps, drop_stages=".5/.75/1 at 50/30/20") == [32, 32, 32, 48, 48, 64]
    assert bench.kept(**steps, drop_stages="1/.25 at 1/2") == [64, 64, 16, 16, 16, 16]


@reaches("drop_tail", "drop_multiple")
def tail_and_multiple(bench):
    assert bench.kept(**HALF, drop_tail=2) == [32, 64, 64]
    assert bench.kept(**{**HALF, "drop_final": 0.4}) == [38] * 3
    assert bench.kept(**{**HALF, "drop_final": 0.4}, drop_multiple=8) == [32] * 3
    assert bench.kept(**{**HALF, "drop_final": 0.9}, drop_multiple=8) == [8] * 3
    assert bench.kept(**{**HALF, "drop_final": 0.0}, drop_multiple=7) == [64] * 3


def kept_places(bench, **settings):
    """The places that a step's network keeps of a batch's images, images in [0, 1] and masks."""
    trainer = bench.trainer(**{**HALF, **settings})
    places, run_blocks = [], trainer.step.network.run_blocks

    def noted(images, keep, given=None):
        x, place_BN = run_blocks(images, keep, given)
        places.append(place_BN)
        return x, place_BN

    trainer.step.network.run_blocks = noted
    batches = list(trainer.batches.epoch(0))
    for batch in batches:
        trainer.step(batch, trainer.recipe.keep(0))
    return trainer, places, batches


@reaches("drop_score", "drop_choice", "drop_attended")
def scores(bench):
    def first(**settings):
        return kept_places(bench, ema_decay=0.5, **settings)[1][0].tolist()

    by_class = first()
    assert first(drop_score="inverse") != by_class != first(drop_choice="sample")
    assert all(set(a) & set(b) == set() for a, b in zip(by_class, first(drop_score="inverse")))  # half and half
    assert first(drop_attended="kept") == by_class
    assert tokens_in_blocks(bench, drop_attended="kept") == {0: 33, 1: 33, 2: 33, 3: 33}
    spread = first(drop_score="distance", drop_choice="greedy")
    assert all({0, 4, 8, 60} < set(image) for image in spread)  # 16 of them evenly over the image


@reaches("drop_score_block")
def score_block(bench):
    for block in (-1, 1):
        trainer = bench.trainer(**HALF, drop_score="averaged_attention", drop_score_block=block, ema_decay=0.5, depth=3)
        assert trainer.giver.averaged is trainer.averaged.module and trainer.giver.block == block % 3


@reaches("drop_fate", "drop_until")
def fates(bench):
    assert tokens_in_blocks(bench, drop_fate="fuse") == {1: 34, 2: 34, 3: 34}
    assert tokens_in_blocks(bench, drop_fate="merge") == {1: 33, 2: 33, 3: 33}
    assert tokens_in_blocks(bench, drop_fate="skip") == {1: 65, 2: 65, 3: 65}
    assert tokens_in_blocks(bench, drop_fate="bypass") == {1: 33, 2: 33, 3: 65}
    assert tokens_in_blocks(bench, drop_fate="bypass", drop_until=2) == {1: 33, 2: 65, 3: 65}
    assert tokens_in_blocks(bench, drop_fate="bypass", drop_until=4) == {1: 33, 2: 33, 3: 33}


@reaches("size_stages")
def size_stages(bench):
    sides = [side for _, _, _, side in bench.steps(size_stages="8/12/16 at 1/1/1", epochs=3)]
    assert sides == [8] * (len(sides) // 3) + [12] * (len(sides) // 3) + [16] * (len(sides) // 3)
    trainer, seen = bench.trainer(size_stages="12/16 at 1/1", epochs=2, drop_final=0.0), []
    trainer.model.stem.register_forward_pre_hook(lambda module, given: seen.append((module.training, given[0].shape)))
    list(trainer.epochs())
    steps = trainer.steps_per_epoch
    training = [shape[-1] for trains, shape in seen if trains]
    assert training == [12] * steps + [16] * steps
    assert {shape[-1] for trains, shape in seen if not trains} == {16}  # evaluation sees whole images


def test_the_oracle_keeps_what_the_masks_cover(bench):
    """Every kept token covers at least as much of the object as every dropped one."""
    _, places, batches = kept_places(bench, drop_score="oracle")
    for kept, batch in zip(places, batches):
        grid, side = 8, batch.masks.shape[-1]
        share = batch.masks.float().unflatten(1, (grid, side // grid)).unflatten(3, (grid, side // grid)).mean((2, 4))
        for image, tokens in enumerate(kept.tolist()):
            inside = [share[image].flatten()[token].item() for token in range(64) if token in tokens]
            outside = [share[image].flatten()[token].item() for token in range(64) if token not in tokens]
            assert min(inside) >= max(outside)


def test_averaged_attention_keeps_what_the_averaged_model_attends_to(bench):
    trainer, places, batches = kept_places(bench, drop_score="averaged_attention", ema_decay=0.5, drop_score_block=1)
    averaged, images = trainer.averaged.module, trainer.normalise(batches[0].images)
    with torch.no_grad():
        x = averaged.blocks[0](averaged.embed(images))
        attention = averaged.blocks[1].attn
        q, k, _ = attention.qkv(averaged.blocks[1].norm1(x)).chunk(3, dim=-1)
        heads = [
            torch.softmax(q[:, :1, part] @ k[:, :, part].transpose(1, 2) / 8**0.5, dim=-1)[:, 0, 1:]
            for part in (slice(0, 8), slice(8, 16))
        ]
    best = (sum(heads) / 2).argsort(dim=1, descending=True)[:, :32].sort(dim=1).values
    assert torch.equal(places[0], best)


def test_the_gradient_score_is_the_running_mean_of_gradient_times_activation(bench):
    """One batch by hand: the loss's gradient towards the tokens of the first block, times these."""
    trainer = bench.trainer(**HALF, drop_score="gradient", drop_tail=0, ema_decay=0.0)
    first, second = list(trainer.batches.epoch(0))[:2]
    vit, smoothing = trainer.model, trainer.recipe.label_smoothing

    def by_hand(batch):
        y = x = vit.embed(trainer.normalise(batch.images)).detach().requires_grad_()
        for block in vit.blocks:
            y = block(y)
        F.cross_entropy(vit.forward_head(vit.norm(y)), batch.labels, label_smoothing=smoothing).backward()
        vit.zero_grad()
        return (x.grad * x).sum(dim=-1)[:, 1:].abs().mean(dim=0).detach()

    expected = by_hand(first)
    trainer.step(first, None)  # all tokens: it learns from them as well
    torch.testing.assert_close(trainer.giver.mean_gg.flatten(), expected, rtol=1e-4, atol=1e-9)
    expected = 0.99 * trainer.giver.mean_gg.flatten() + 0.01 * by_hand(second)
    trainer.step(second, None)
    torch.testing.assert_close(trainer.giver.mean_gg.flatten(), expected, rtol=1e-4, atol=1e-9)


def test_a_place_that_was_never_seen_comes_first(bench):
    """Tokens dropped before the block have no gradient; they are tried before any is dropped again."""
    trainer, places, _ = kept_places(bench, drop_score="gradient", drop_attended="kept")
    assert not set(places[0][0].tolist()) & set(places[1][0].tolist())
    assert (trainer.giver.mean_gg < 1e29).all()


@pytest.mark.parametrize("score", ["gradient", "averaged_attention", "oracle", "random"])
def test_a_stopped_epoch_goes_on_equal(bench, score):
    """What the scores know is part of the state."""
    settings = {**HALF, "drop_score": score, "ema_decay": 0.5, "epochs": 2, "drop_attended": "kept"}
    whole = bench.trainer(**settings)
    records = list(whole.epochs())

    class Stop(Exception):
        pass

    def stop(epoch, done, steps):
        if (epoch, done) == (1, 2):
            raise Stop

    stopped = bench.trainer(**settings)
    with pytest.raises(Stop):
        list(stopped.epochs(stop))
    resumed = Trainer(stopped.recipe, bench.dataset)
    resumed.load_state_dict(stopped.state_dict())
    (last,) = resumed.epochs()
    assert last.train_loss == records[1].train_loss and last.test_loss == records[1].test_loss
    for one, other in zip(whole.model.parameters(), resumed.model.parameters()):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CHECKS)
def test_the_setting_reaches_what_it_sets(bench, name):
    CHECKS[name](bench)
