"""What the ranks of a run draw: the same batches, each its own dropout. Without starting any process."""

import pytest
import torch

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


def test_all_ranks_make_the_same_batches_of_which_each_takes_its_own_images(recipe, tiny_shapes):
    ours, theirs = (epoch_of(rank, recipe, tiny_shapes).batches for rank in (0, 1))
    for one, two in zip(ours, theirs):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], two[:3]))
    shards = [Ranks(rank, 2).shard(ours[0].images) for rank in (0, 1)]
    assert not torch.equal(*shards)
