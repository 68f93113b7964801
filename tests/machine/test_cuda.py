"""Training on CUDA: equal to the CPU in fp32, compiled equal to uncompiled, and resumed equal to never stopped.

These need nothing but the library itself and pytest, so that they run where there is no Jupyter.
"""

import os
import signal

import pytest
import torch
from conftest import Lines, equal, without_clocks

from ptd_core.data.batches import Batch
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FILES = sorted((PROJECT_ROOT / "parameters" / "space").glob("*.yaml"))
SMALL = {"subset": 160, "test_subset": 60, "batch_size": 32, "epochs": 4, "warmup_epochs": 0, "drop_start": 0,
         "drop_end": 2, "dropout": 0.0, "drop_path": 0.0, "precision": "fp32", "attention": "explicit"}  # fmt: skip
CURVED = ("polynomial", "cosine", "reversed")
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def recipe_of(path, folder, **settings):
    read = Recipe.from_yaml(path)
    small = {name: value for name, value in SMALL.items() if name != "drop_end" or read.drop_shape in CURVED}
    if read.drop_shape == "cyclic":
        small["drop_cycle"] = 2
    return read.replace(**{**small, "out_dir": str(folder), **settings})


def trainer_on(device, path, folder):
    recipe = recipe_of(path, folder, device=device, compilation="off")
    return Trainer(recipe, recipe.load_dataset())


@every_file
def test_a_step_in_fp32_is_the_cpus_within_rounding(path, tmp_path):
    """Loss and every gradient, with the fewest tokens of the curriculum; scores that are drawn at random differ."""
    cpu, cuda = (trainer_on(device, path, tmp_path) for device in ("cpu", "cuda"))
    if cpu.recipe.drop_score == "random" or cpu.recipe.drop_choice == "sample" or path.stem == "dynamicvit":
        pytest.skip("draws its tokens, and a CUDA device draws others than a CPU")
    epoch = next(epoch for epoch, keep in enumerate(cpu.recipe.keeps) if keep)
    batch = next(iter(cpu.batches.epoch(0)))
    on_cuda = Batch(*(None if part is None else part.cuda() for part in batch))
    losses = []
    for trainer, its_batch in ((cpu, batch), (cuda, on_cuda)):
        trainer.model.train()
        loss, _ = trainer.step.forward(its_batch, *trainer._passes[epoch])
        trainer.step.backward(loss)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for (name, one), two in zip(cpu.model.named_parameters(), cuda.model.parameters()):
        if one.grad is not None:
            off = (one.grad - two.grad.cpu()).norm() / one.grad.norm().clamp_min(1e-12)
            assert off < 2e-3 or one.grad.norm() < 1e-6, name


def test_augmented_images_are_the_cpus(tmp_path):
    settings = {"rand_ops": 2, "rand_magnitude": 10, "crop_padding": 4, "flip": True, "erase": 0.0}
    path = next(path for path in FILES if path.stem == "ptd")
    first = []
    for device in ("cpu", "cuda"):
        recipe = recipe_of(path, tmp_path, device=device, compilation="off", **settings)
        first.append(next(iter(Trainer(recipe, recipe.load_dataset()).batches.epoch(0))))
    assert torch.equal(first[0].labels, first[1].labels.cpu())
    close = torch.isclose(first[0].images, first[1].images.cpu(), atol=1.5 / 255)
    assert close.float().mean() > 0.999  # a bilinear or nearest pixel may be rounded the other way


@pytest.mark.slow
@every_file
def test_cuda_graphs_train_as_uncompiled_steps_do(path, tmp_path):
    """Few epochs in fp32: rounding has not had the time to grow. Random tokens are drawn by other generators."""
    losses = {}
    for compilation in ("off", "cudagraphs"):
        run = execute(
            recipe_of(path, tmp_path, device="cuda", compilation=compilation, run=f"{path.stem}_{compilation}"),
            Lines(),
        )
        losses[compilation] = [record.train_loss for record in run.records]
        assert run.record.compilation == compilation
    drawn = run.recipe.drop_score == "random" or run.recipe.drop_choice == "sample" or path.stem == "dynamicvit"
    assert losses["off"] == pytest.approx(losses["cudagraphs"], rel=0.2 if drawn else 0.02)


class SignalAt(Lines):
    """Sends this process SIGINT after (epoch, steps done), once."""

    def __init__(self, point):
        super().__init__()
        self.point = point

    def step(self, epoch, done, steps):
        if (epoch, done) == self.point:
            self.point = None
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("compilation", ["off", "cudagraphs"])
def test_stopped_and_resumed_equals_never_stopped(tiny, tmp_path, compilation):
    settings = {"device": "cuda", "precision": "fp32", "attention": "explicit", "compilation": compilation}
    expected = execute(tiny(out_dir=str(tmp_path / "whole"), **settings), Lines())
    with pytest.raises(KeyboardInterrupt):
        execute(tiny(**settings), SignalAt((1, 2)))
    resumed = execute(tiny(**settings), Lines())
    assert without_clocks(resumed.records) == without_clocks(expected.records)
    assert equal(resumed.model.state_dict(), expected.model.state_dict())


@pytest.mark.slow
def test_bf16_and_cuda_graphs_learn_what_fp32_learns(tmp_path):
    path = next(path for path in FILES if path.stem == "ptd")
    losses = []
    for name, chosen in (("fp32", {"compilation": "off"}), ("auto", {"precision": "auto", "attention": "auto"})):
        run = execute(recipe_of(path, tmp_path, device="cuda", run=name, **chosen), Lines())
        losses.append([record.train_loss for record in run.records])
    assert run.record.precision == "bf16" and run.record.attention == "fused"
    assert run.record.compilation == "cudagraphs"  # nothing made it give up
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
