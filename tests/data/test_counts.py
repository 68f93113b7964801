"""A run that is stopped goes on with the images that it was begun with, or says why it does not."""

import dataclasses

import pytest
import torch
from conftest import Lines

from ptd_core.data.dataset import Split
from ptd_core.errors import OutputError
from ptd_core.run import execute
from ptd_core.trainer import Trainer


def without(split, *places):
    kept = torch.tensor([i for i in range(len(split)) if i not in places])
    return Split(split.images[kept], split.labels[kept])


class Stop(Exception):
    pass


def stopped(trainer, steps):
    """The trainer's state after so many steps."""
    count = iter(range(steps - 1))

    def may_stop():
        if next(count, None) is None:
            raise Stop

    with pytest.raises(Stop):
        list(trainer.epochs(may_stop=may_stop))
    return trainer.state_dict()


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("fewer_at_first", [True, False])
def test_a_stopped_trainer_refuses_other_images(tiny, tiny_shapes, part, fewer_at_first):
    fewer = dataclasses.replace(tiny_shapes, **{part: without(getattr(tiny_shapes, part), 0)})
    first, second = (fewer, tiny_shapes) if fewer_at_first else (tiny_shapes, fewer)
    label = getattr(tiny_shapes, part).labels[0]
    state = stopped(Trainer(tiny(), first), 2)
    Trainer(tiny(), first).load_state_dict(state)
    with pytest.raises(OutputError, match=rf"image\(s\) of class {tiny_shapes.classes[label]}, now .*added or removed"):
        Trainer(tiny(), second).load_state_dict(state)


def test_a_state_without_numbers_is_judged_by_its_steps(tiny, tiny_shapes):
    """Of an earlier version."""
    state = stopped(Trainer(tiny(), dataclasses.replace(tiny_shapes, train=without(tiny_shapes.train, 0))), 2)
    del state["images"]
    with pytest.raises(OutputError, match="4 steps in an epoch, now there are 5"):
        Trainer(tiny(), tiny_shapes).load_state_dict(state)


def test_another_class_is_named(tiny, tiny_shapes):
    state = stopped(Trainer(tiny(), tiny_shapes), 2)
    renamed = dataclasses.replace(tiny_shapes, classes=("another", *tiny_shapes.classes[1:]))
    with pytest.raises(OutputError, match="begun with no class another"):
        Trainer(tiny(), renamed).load_state_dict(state)


def test_a_finished_run_is_shown_with_the_images_of_today(tiny, tiny_shapes):
    execute(tiny(), Lines(), dataset=tiny_shapes)
    execute(tiny(), Lines(), dataset=dataclasses.replace(tiny_shapes, train=without(tiny_shapes.train, 0)))


def test_a_run_says_what_its_data_is(tiny, tiny_shapes):
    progress = Lines()
    execute(tiny(), progress, dataset=dataclasses.replace(tiny_shapes, notes=("one", "two")))
    assert progress.printed[2:4] == ["data      one", "data      two"]
