"""A batch in micro-batches is the batch: gradients, losses, counts and runs against those of one whole batch."""

import copy

import pytest
import torch
from conftest import without_clocks
from graphs import counted_graphs
from ranked import run_in_pieces, run_several, together
from test_ranks import records_of, weights_of

from ptd_core.data.batches import Batch
from ptd_core.data.micro_batches import micro_batches
from ptd_core.errors import RecipeError
from ptd_core.machine.ranks import Ranks
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.trainer import Trainer

# Without batch norm, dropout and drop-path the result is that of the whole batch.
PLAIN = {"model": "vit_tiny_patch16_224", "model_args": "patch_size=4,depth=2,embed_dim=16,num_heads=2",
         "dropout": 0.0, "drop_path": 0.0, "epochs": 2, "drop_final": 0.5, "drop_end": 1,
         "grad_clip": 0.01}  # fmt: skip
HYBRID = ("stem_width", "stem_stride", "embed_dim", "depth", "num_heads")


@pytest.fixture
def plain(tiny):
    """Recipes of a tiny ViT of timm's."""
    fields = Recipe.model_fields
    return lambda **settings: tiny(**{**PLAIN, **{name: fields[name].default for name in HYBRID}, **settings})


def trained_step(recipe, dataset, keep):
    """Loss, correct answers and every gradient of a step on mixed images, and what the giver learned."""
    trainer = Trainer(recipe, dataset)
    trainer.model.train()
    loss, correct = trainer.step(next(trainer.batches.epoch(0)), keep)
    gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
    return loss, correct, gradients, trainer.giver.state_dict() if trainer.giver else {}


@pytest.mark.parametrize("steps", [2, 4, 32])
@pytest.mark.parametrize(
    "settings",
    [{}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.3}, {"drop_score": "gradient"},
     {"drop_score": "averaged_attention"}, {"drop_method": "tome"}, {"drop_method": "evo_vit", "drop_block": 1}],
    ids=["mixed", "smoothed", "gradient", "averaged", "tome", "evo_vit"],
)  # fmt: skip
def test_a_step_in_micro_batches_is_that_of_the_whole_batch(plain, tiny_shapes, settings, steps):
    keep = (8,)
    whole, parts = (
        trained_step(plain(accumulate_steps=count, grad_clip=0.0, **settings), tiny_shapes, keep)
        for count in (1, steps)
    )
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-5, atol=1e-6)
    assert parts[1] == whole[1]
    for name, gradient in whole[2].items():
        torch.testing.assert_close(parts[2][name], gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parts[3], whole[3], rtol=1e-4, atol=1e-7)
    assert ("mean" in whole[3]) is (settings.get("drop_score") == "gradient")


def test_partners_are_those_of_the_whole_batch():
    images, labels = torch.rand(12, 3, 2, 2), torch.arange(12)
    weight, masks = torch.rand(2, 2), torch.rand(12, 2, 2) > 0.5
    seen = []
    for rank in range(2):
        own = torch.from_numpy(Ranks(rank, 2).own(12, pairs=True))  # the shard that a process makes
        for part in micro_batches(Batch(images[own], labels[own], weight, masks[own]), 3):
            assert len(part.images) == 2
            assert torch.equal(part.images, images[part.labels] * weight + images[part.partners] * (1 - weight))
            assert torch.equal(part.partners, 11 - part.labels) and part.share == weight.mean()
            assert torch.equal(part.masks, masks[part.labels])
            seen += part.labels.tolist()
    assert sorted(seen) == list(range(12))
    (part,) = micro_batches(Batch(images, labels), 1)
    assert torch.equal(part.images, images) and part[2:] == (None, None, None)
    with pytest.raises(ValueError, match="12 images do not divide into 5 micro-batches"):
        micro_batches(Batch(images, labels), 5)


def test_a_run_in_micro_batches_is_that_of_whole_batches(plain, tiny_shapes):
    """Clipping, the moving average and the learning rate once a step."""
    settings = {"model_args": PLAIN["model_args"] + ",qkv_bias=False"}  # keys' biases have no gradient but rounding
    runs = [execute(plain(run=f"in{n}", accumulate_steps=n, **settings), dataset=tiny_shapes) for n in (1, 4)]
    for one, two in zip(*(run.records for run in runs)):
        assert two.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert two.ema_test_loss == pytest.approx(one.ema_test_loss, rel=1e-4)
        assert (two.lr, two.kept_tokens, two.train_accuracy) == (one.lr, one.kept_tokens, one.train_accuracy)
    for one, two in zip(*(run.trainer.headline.parameters() for run in runs)):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)


def test_batch_norm_sees_one_micro_batch_after_another(tiny, tiny_shapes):
    """As the help of the setting says; statistics in use are those of the last micro-batches."""
    trainer = Trainer(tiny(accumulate_steps=2, mixup_alpha=0.0, cutmix_alpha=0.0, dropout=0.0), tiny_shapes)
    stem = copy.deepcopy(trainer.model.stem).train()
    batch = next(trainer.batches.epoch(0))
    trainer.model.train()
    trainer.step(batch, None)
    with torch.no_grad():
        for images in batch.images.split(16):
            stem(trainer.normalise(images))
    for name, value in stem.named_buffers():
        torch.testing.assert_close(dict(trainer.model.stem.named_buffers())[name], value)


def test_a_stopped_run_goes_on_to_the_same_end(tiny, tiny_shapes):
    recipe = tiny(accumulate_steps=4)  # with dropout and batch norm
    expected = without_clocks(Trainer(recipe, tiny_shapes).epochs())
    first, second = Trainer(recipe, tiny_shapes), Trainer(recipe, tiny_shapes)
    begun = [next(first.epochs())]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert without_clocks([*begun, *second.epochs()]) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"accumulate_steps": 4}, {"frozen_blocks": 1, "layer_decay": 0.5}, {"checkpoint_activations": True}],
    ids=["accumulated", "frozen", "checkpointed"],
)
def test_two_processes_do_the_run_of_one(tmp_path, plain, settings):
    settings = {"model_args": PLAIN["model_args"] + ",qkv_bias=False", "run": "tiny", **settings}
    recipes = [plain(out_dir=str(tmp_path / name), **settings) for name in ("one", "two", "hurt")]
    run_in_pieces(Ranks(), recipes[0], [])
    assert together(run_several, (recipes[1], []), (recipes[2], [(1, 2)])) == [[[False], [True, False]]] * 2
    for one, two in zip(records_of(tmp_path / "one"), records_of(tmp_path / "two")):
        assert two.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert two.train_accuracy == one.train_accuracy
    torch.testing.assert_close(weights_of(tmp_path / "two"), weights_of(tmp_path / "one"), rtol=1e-3, atol=1e-4)
    assert records_of(tmp_path / "hurt") == records_of(tmp_path / "two")


def test_what_does_not_divide_is_refused(tiny, tiny_shapes):
    with pytest.raises(RecipeError, match="batch_size = 32, accumulate_steps = 5: the micro-batches of a batch must"):
        tiny().replace(accumulate_steps=5)
    with pytest.raises(RecipeError, match=r"2 processes, each in 32 micro-batches .* use a multiple of 64"):
        Trainer(tiny(accumulate_steps=32), tiny_shapes, Ranks(0, 2))


def test_micro_batches_share_their_graphs(tiny, tiny_shapes):
    torch._dynamo.reset()
    trainer = Trainer(tiny(accumulate_steps=4, dropout=0.0, drop_path=0.0, mixup_alpha=0.0), tiny_shapes)
    trainer.model.train()
    trainer.step._compiled, graphs = counted_graphs(trainer.step.network, "aot_eager")
    trainer.step.path = trainer.path.__class__("fp32", "fused", True, "inductor")
    batches = trainer.batches.epoch(0)
    for keep in (None, (40,), (30,), (20,)):
        trainer.step(next(batches), keep)
    assert 1 <= len(graphs) <= 3


def test_earlier_runs_keep_their_fingerprint(tiny):
    assert "accumulate_steps" not in tiny().settings()
    assert tiny(accumulate_steps=2).fingerprint != tiny().fingerprint
