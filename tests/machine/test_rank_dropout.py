"""What the ranks of a run draw: their shards of the same batches, each its own dropout. Without starting processes."""

import pytest
import torch

from ptd_core.data import augment
from ptd_core.data.mixing import mix
from ptd_core.errors import RecipeError
from ptd_core.machine.ranks import Ranks
from ptd_core.trainer import Trainer


class Alone(Ranks):
    """A rank of several that never meets the others."""

    def parallel(self, model):
        return model

    def global_batch_norm(self, model):
        return model

    def sum(self, values):
        return values


class Drawing:
    """A training step that trains nothing: it keeps the batch and draws once, as dropout would."""

    def __init__(self, step):
        self.optimizer, self.ranks, self.path, self.network = step.optimizer, step.ranks, step.path, step.network
        self.batches, self.draws = [], []

    def prepare(self, batch, keep, side):
        torch.rand(7)  # whatever it draws, no step notices

    def __call__(self, batch, keep, side):
        self.batches.append(batch)
        self.draws.append(torch.rand(4))
        return torch.zeros(()), torch.zeros(())


def epoch_of(rank, recipe, dataset, stand=0):
    """What a rank's steps draw and are given in the first epoch, begun before step `stand` of it."""
    trainer = Trainer(recipe, dataset, Alone(rank, 4))
    trainer.step = Drawing(trainer.step)
    if stand:
        state = trainer.state_dict()
        partial = {"losses": torch.zeros(5), "correct": torch.zeros(()), "step": stand, "seconds": 0.0}
        trainer.load_state_dict({**state, "partial": {**partial, "data_seconds": 0.0, "random": None}})
    next(trainer.epochs())
    return trainer.step


@pytest.fixture
def recipe(tiny):
    return tiny(ema_decay=0.0, eval_every=3)


def test_each_rank_draws_its_own_dropout_and_does_so_again(recipe, tiny_shapes):
    draws = [torch.stack(epoch_of(rank, recipe, tiny_shapes).draws) for rank in (0, 1, 2, 3, 1)]
    assert draws[0].shape == (5, 4)
    assert torch.equal(draws[1], draws[4])
    assert len(set(torch.stack(draws[:4]).flatten().tolist())) == 4 * 5 * 4  # no two steps of any ranks are alike


def test_a_resumed_rank_draws_as_if_nothing_had_stopped_it(recipe, tiny_shapes):
    whole = torch.stack(epoch_of(1, recipe, tiny_shapes).draws)
    assert torch.equal(torch.stack(epoch_of(1, recipe, tiny_shapes, stand=2).draws), whole[2:])


@pytest.mark.parametrize("mixed", [True, False])
def test_the_ranks_shards_are_the_batches_of_a_single_process(recipe, tiny_shapes, mixed):
    if not mixed:
        recipe = recipe.replace(mixup_alpha=0.0, cutmix_alpha=0.0)
    whole = Trainer(recipe, tiny_shapes).batches.epoch(0)
    ours = [epoch_of(rank, recipe, tiny_shapes).batches for rank in range(4)]
    places = [torch.from_numpy(Ranks(rank, 4).own(32, pairs=mixed)) for rank in range(4)]
    assert sorted(torch.cat(places).tolist()) == list(range(32))
    for step, batch in enumerate(whole):
        for rank, own in enumerate(places):
            mine = ours[rank][step]
            assert torch.equal(mine.images, batch.images[own]) and torch.equal(mine.labels, batch.labels[own])
            assert mine.mix is batch.mix is None if not mixed else torch.equal(mine.mix, batch.mix)
            if mixed:  # the partner of an image of the shard is its partner in the whole batch
                assert torch.equal(mix(mine.images, mine.mix), mix(batch.images, batch.mix)[own])
                assert torch.equal(mine.labels.flip(0), batch.labels.flip(0)[own])


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_rank_augments_its_own_images_alone(recipe, tiny_shapes, monkeypatch, mixed, size):
    if not mixed:
        recipe = recipe.replace(mixup_alpha=0.0, cutmix_alpha=0.0)
    seen, apply = [], augment.randaugment.apply

    def counting(images, *arguments):
        seen.append(len(images))
        return apply(images, *arguments)

    monkeypatch.setattr(augment.randaugment, "apply", counting)
    for rank in range(size):
        seen.clear()
        batches = list(Trainer(recipe, tiny_shapes, Alone(rank, size)).batches.epoch(0))
        # Mixed images have their partners in the same shard, so that nothing is augmented twice.
        assert sum(seen) == sum(len(batch.images) for batch in batches) == 160 / size


def test_pairs_that_do_not_divide_are_refused(recipe, tiny_shapes):
    with pytest.raises(RecipeError, match=r"batch_size = 36: .* 8 processes, which take whole pairs .* multiple of 16"):
        Ranks(0, 8).check_batch_size(36, pairs=True)
    with pytest.raises(RecipeError, match="batch_size = 30: does not divide among 2 processes, which"):
        Trainer(recipe.replace(batch_size=30), tiny_shapes, Alone(0, 2))
    Ranks().check_batch_size(7, pairs=True)  # a single process has whole batches
    Trainer(recipe.replace(batch_size=30, mixup_alpha=0.0, cutmix_alpha=0.0), tiny_shapes, Alone(0, 2))


def test_an_epoch_can_begin_at_any_of_its_steps(recipe, tiny_shapes):
    batches = Trainer(recipe.replace(erase=0.5), tiny_shapes, Alone(1, 2)).batches
    whole = list(batches.epoch(1))
    for first in (0, 1, 4, 5):
        rest = list(batches.epoch(1, first))
        assert len(rest) == 5 - first
        assert all(torch.equal(a, b) for one, two in zip(rest, whole[first:]) for a, b in zip(one[:3], two[:3]))
