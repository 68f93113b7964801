"""Steps are compiled before they are taken, in one order whether a run is resumed or not, and never at any price."""

import pytest
import torch

from ptd_core.machine.fast_path import FastPath
from ptd_core.run import execute
from ptd_core.step import TrainingStep
from ptd_core.trainer import Trainer

CURRICULUM = {"epochs": 6, "drop_start": 1, "drop_end": 5, "drop_final": 0.5}
KEPT = [None, None, (56,), (48,), (40,), (32,)]


@pytest.fixture
def as_if_compiled(monkeypatch):
    """Every step claims to be compiled; what prepares it is noted instead of done."""
    prepared = []
    choose = FastPath.choose
    monkeypatch.setattr(FastPath, "choose", lambda device, *asked: choose(device, "fp32", "fused", "cudagraphs"))
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: model)
    monkeypatch.setattr(TrainingStep, "prepare", lambda self, batch, keep, side: prepared.append(keep))
    return prepared


def test_each_step_is_prepared_once_and_a_resumed_run_begins_as_it_would_have(as_if_compiled, tiny, tiny_shapes):
    recipe = tiny(**CURRICULUM, drop_gamma=1.0, dropout=0.0, eval_every=6, ema_decay=0.0)
    assert recipe.keeps == KEPT
    list(Trainer(recipe, tiny_shapes).epochs())
    assert as_if_compiled == [None, (56,), (48,), (40,), (32,)]
    for begun, expected in (
        (1, [None, (56,), (48,), (40,), (32,)]),
        (3, [None, (56,), (48,), (40,), (32,)]),
        (5, [None, (56,), (48,), (32,)]),  # by now one graph serves all
    ):
        as_if_compiled.clear()
        trainer = Trainer(recipe, tiny_shapes)
        trainer.next_epoch = begun
        list(trainer.epochs())
        assert as_if_compiled == expected


def test_a_resumed_run_prepares_the_first_steps_of_every_image_size(monkeypatch, as_if_compiled, tiny, tiny_shapes):
    recipe = tiny(**{**CURRICULUM, "epochs": 12, "drop_end": 12, "size_stages": "8/16 at 50/50", "subset": 160},
                  drop_gamma=1.0, dropout=0.0, eval_every=12, ema_decay=0.0)  # fmt: skip
    assert recipe.sides == [8] * 6 + [16] * 6
    sized = []
    monkeypatch.setattr(TrainingStep, "prepare", lambda self, batch, keep, side: sized.append((keep, side)))
    trainer = Trainer(recipe, tiny_shapes)
    trainer.next_epoch = 10
    list(trainer.epochs())
    passes = list(dict.fromkeys(zip(recipe.keeps, recipe.sides)))
    small, large = ([one for one in passes if one[1] == side] for side in (8, 16))
    assert sized == [*small[:3], *large[:3], *large[4:]]


@pytest.mark.slow
def test_images_that_grow_compile_and_train_as_uncompiled(tiny, tiny_shapes, monkeypatch):
    """Graphs of every side, run as they stand; that none of them lets the side vary is asked in `test_fast_path`."""
    torch._dynamo.reset()
    compile, aot, images = torch.compile, torch._dynamo.lookup_backend("aot_eager"), []

    def noting(graph, inputs, **options):
        given = [node.meta.get("example_value") for node in graph.graph.find_nodes(op="placeholder")]
        images.extend(one for one in given if isinstance(one, torch.Tensor) and one.ndim == 4 and one.shape[1] == 3)
        return aot(graph, inputs, **options)

    monkeypatch.setattr(torch, "compile", lambda model, mode=None: compile(model, backend=noting))
    sizes = {"epochs": 4, "size_stages": "8/16 at 50/50", "drop_start": 0, "drop_end": 4}
    losses = []
    for compilation in ("off", "inductor"):
        run = execute(tiny(run=compilation, compilation=compilation, dropout=0.0, drop_path=0.0, **sizes),
                      dataset=tiny_shapes)  # fmt: skip
        losses.append([record.train_loss for record in run.records])
    assert run.record.compilation == "inductor"
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    sides = [side for one in images if len(one) == 32 for side in one.shape[2:]]
    assert set(sides) == {8, 16}


def without_compiler(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(torch, "compile", lambda model, mode=None: fail)


CHOOSE = FastPath.choose


@pytest.mark.parametrize("error", [RuntimeError("Failed to find C compiler.\nSecond line"),
                                   torch._inductor.exc.TritonMissing(None)])  # fmt: skip
def test_where_nothing_can_compile_auto_goes_on_uncompiled_and_says_so_once(monkeypatch, tiny, tiny_shapes, error):
    plain = execute(tiny(run="plain"), dataset=tiny_shapes)
    monkeypatch.setattr(
        FastPath,
        "choose",
        lambda device, precision, attention, compilation: CHOOSE(device, "fp32", attention, "inductor"),
    )
    without_compiler(monkeypatch, error)
    with pytest.warns(UserWarning, match="training is not compiled, and slower: ") as caught:
        done = execute(tiny(run="auto"), dataset=tiny_shapes)
    said = [str(one.message) for one in caught if "not compiled" in str(one.message)]
    assert len(said) == 1 and "\n" not in said[0]
    assert done.record.compilation == "off"
    assert [record.train_loss for record in done.records] == [record.train_loss for record in plain.records]


def test_what_was_asked_for_is_not_given_up(monkeypatch, tiny, tiny_shapes):
    without_compiler(monkeypatch, RuntimeError("Failed to find C compiler."))
    with pytest.raises(RuntimeError, match="C compiler"):
        execute(tiny(compilation="inductor"), dataset=tiny_shapes)
