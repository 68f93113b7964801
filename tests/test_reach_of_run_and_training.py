"""Settings of the run, and of training: change one alone, and look for its own consequence."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import Lines
from reach import collector

from ptd_core.machine import ranks as ranks_module
from ptd_core.records import checkpoint
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.history import read_csv
from ptd_core.run import execute
from ptd_core.trainer import build_model

CHECKS, reaches = collector()


# run


@reaches("run", "out_dir", "checkpoint_every")
def folder_and_checkpoints(bench):
    saved = []
    save = Checkpoints.save
    bench.monkeypatch.setattr(
        Checkpoints, "save", lambda self, found: (saved.append(len(found.records)), save(self, found))
    )
    recipe = bench.recipe(run="mine", out_dir=str(bench.folder / "here"), checkpoint_every=2)
    execute(recipe, Lines(), dataset=bench.dataset)
    assert [path.name for path in (bench.folder / "here" / "runs").iterdir()] == ["mine"]
    assert len(read_csv(bench.folder / "here" / "runs" / "mine" / "ptd_history.csv")) == 3
    assert saved == [2, 3]


@reaches("weights_every")
def weights_every(bench):
    for every, kept in ((0, [1]), (2, [1, 2]), (1, [1, 2, 3])):
        done = execute(bench.recipe(run=f"weights{every}", weights_every=every), Lines(), dataset=bench.dataset)
        assert sorted(done.folder.glob("weights_after_epoch_*")) == [
            done.folder / f"weights_after_epoch_{epoch}.safetensors" for epoch in kept
        ]


@reaches("log")
def log(bench):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    for log in ("none", "tensorboard"):
        done = execute(bench.recipe(run=f"log_{log}", log=log, epochs=1), Lines(), dataset=bench.dataset)
        assert [path.name for path in done.folder.rglob("events.out.tfevents.*")] != [] or log == "none"
        assert (done.folder / "tensorboard").exists() is (log == "tensorboard")


@reaches("checkpoint_seconds")
def checkpoints_within_epochs(bench):
    """After every step that comes so many seconds after the one that was saved before."""
    saved, save = [], Checkpoints.save

    def note(self, found):
        saved.append((found.trainer["next_epoch"], found.trainer["partial"] and found.trainer["partial"]["step"]))
        save(self, found)

    bench.monkeypatch.setattr(Checkpoints, "save", note)
    bench.monkeypatch.setattr(checkpoint, "SHARE", math.inf)  # writing here takes longer than training
    for seconds, expected in ((0.0, []), (1e-9, [1, 2, 3, 4])):
        saved.clear()
        execute(bench.recipe(run=f"every{seconds > 0:d}", checkpoint_seconds=seconds), Lines(), dataset=bench.dataset)
        assert saved == [
            point for epoch in range(3) for point in (*((epoch, step) for step in expected), (epoch + 1, None))
        ]


@reaches("seed")
def seed(bench):
    def weights(seed):
        torch.rand(3 + seed)  # wherever the process's own generator stands
        return torch.cat([p.flatten() for p in build_model(bench.recipe(seed=seed), 10).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.isclose(weights(0), weights(1))[weights(0).abs() > 1e-3][:500].any()
    trainers = [bench.trainer(seed=seed) for seed in (0, 1)]
    assert not torch.equal(trainers[0].model.head.weight, trainers[1].model.head.weight)

    def labels(seed):
        return torch.cat([batch.labels for batch in bench.batches(seed=seed)])

    assert torch.equal(labels(0), labels(0)) and not torch.equal(labels(0), labels(1))

    picture = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    drawn = {"crop_padding": 4, "flip": True, "rand_ops": 1, "erase": 0.5, "cutmix_alpha": 1.0}
    for name, value in drawn.items():  # of pictures that are all the same, so that the order is not what differs
        one, again, other = (bench.batches(picture, seed=seed, **{name: value}) for seed in (0, 0, 1))
        what = "mix" if name == "cutmix_alpha" else "images"
        one, again, other = (torch.cat([getattr(batch, what) for batch in run]) for run in (one, again, other))
        assert torch.equal(one, again) and not torch.equal(one, other), name

    for name in ("dropout", "drop_path"):  # the same weights and batches
        losses = []
        for seed in (0, 0, 1):
            trainer = bench.trainer(seed=seed, epochs=1, eval_every=3, drop_end=0, **{name: 0.3})
            trainer.model.load_state_dict(trainers[0].model.state_dict())
            trainer.batches = trainers[0].batches
            losses.append(next(trainer.epochs()).train_loss)
        assert losses[0] == losses[1] != losses[2], name


@reaches("device")
def device(bench):
    asked = []
    bench.monkeypatch.setattr(ranks_module, "resolve_device", lambda name: (asked.append(name), torch.device("cpu"))[1])
    assert bench.trainer(device="cuda:3").device == torch.device("cpu")
    assert asked == ["cuda:3"]


@reaches("precision")
def precision(bench):
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        trainer, kinds = bench.trainer(precision=name, epochs=1, ema_decay=0.0), set()
        trainer.model.head.register_forward_hook(
            lambda module, given, out, kinds=kinds: kinds.add((module.training, out.dtype))
        )
        next(trainer.epochs())
        assert kinds == {(True, kind), (False, kind)}
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


@reaches("attention")
def attention(bench):
    for name in ("fused", "explicit"):
        assert {block.attn.fused_attn for block in bench.model(attention=name).blocks} == {name == "fused"}


@reaches("checkpoint_activations")
def checkpoint_activations(bench):
    for on in (False, True):
        trainer, calls = bench.trainer(checkpoint_activations=on), []
        trainer.model.blocks[0].attn.qkv.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        trainer.step(next(trainer.batches.epoch(0)), None)
        assert len(calls) == 1 + on  # once more, in the backward pass


@reaches("compilation")
def compilation(bench):
    asked = []
    bench.monkeypatch.setattr(torch, "compile", lambda model, mode=None: (asked.append(mode), model)[1])
    for name in ("off", "inductor", "cudagraphs"):
        with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=False):
            assert bench.trainer(compilation=name).path.compilation == name
    assert asked == [None, "reduce-overhead"]


# training


@reaches("epochs", "batch_size")
def epochs_and_batches(bench):
    for epochs, size in ((1, 32), (2, 40), (2, 48)):
        steps = bench.steps(epochs=epochs, batch_size=size)
        assert len(steps) == epochs * (160 // size)
        assert {len(batch.images) for _, _, batch, _ in steps} == {size}


@reaches("epoch_images")
def images_of_an_epoch(bench):
    for images, epochs in ((0, [160, 160]), (70, [64, 64]), (160, [160, 160])):
        steps = bench.steps(epoch_images=images, epochs=2, batch_size=32)
        assert len(steps) * 32 == sum(epochs)


@reaches("accumulate_steps")
def accumulate_steps(bench):
    for steps in (1, 4):
        trainer, seen = bench.trainer(accumulate_steps=steps), []
        trainer.model.stem.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(len(given[0])))
        trainer.step(next(trainer.batches.epoch(0)), None)
        assert seen == [32 // steps] * steps


@reaches("layer_decay", "frozen_blocks")
def rates_by_layer(bench):
    for decay, frozen, rates in ((1.0, 0, [1.0]), (0.5, 0, [0.125, 0.25, 0.5, 1.0]), (0.5, 1, [0.5, 1.0])):
        trainer = bench.trainer(layer_decay=decay, frozen_blocks=frozen, lr=1e-3)
        trainer._set_lr(4)  # at the peak
        found = [group["lr"] for group in trainer.step.optimizer.param_groups]
        assert found == pytest.approx([1e-3 * rate for rate in rates])
        assert trainer.model.blocks[0].norm1.weight.requires_grad is not bool(frozen)


@reaches("eval_batch_size")
def eval_batch_size(bench):
    for size in (7, 50):
        trainer, seen = bench.trainer(eval_batch_size=size), []
        trainer.model.stem.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(len(given[0])))
        trainer.evaluate(trainer.model, trainer.test)
        assert seen == [size] * (60 // size) + [60 % size]


@reaches("eval_every")
def eval_every(bench):
    for every, expected in ((1, [0, 1, 2, 3]), (3, [2, 3]), (4, [3])):
        records = list(bench.trainer(epochs=4, eval_every=every, depth=1).epochs())
        assert [record.epoch for record in records if not math.isnan(record.test_loss)] == expected


@reaches("lr", "warmup_epochs")
def learning_rate(bench):
    """A line up to the peak, then half a cosine: its first step is at the peak again."""
    for peak, warm in ((1e-3, 1), (3e-3, 1), (1e-3, 0), (1e-3, 2)):
        rates = [rate for rate, _, _, _ in bench.steps(lr=peak, warmup_epochs=warm)]
        rise = [peak * (step + 1) / (5 * warm) for step in range(5 * warm)]
        left = 15 - 5 * warm
        assert rates == pytest.approx(rise + [peak * (1 + math.cos(math.pi * i / left)) / 2 for i in range(left)])


@reaches("weight_decay")
def weight_decay(bench):
    """Weights without a gradient shrink by lr * decay in a step."""
    for decay in (0.0, 0.5):
        trainer = bench.trainer(weight_decay=decay)
        optimizer, weights = trainer.step.optimizer, list(trainer.model.parameters())
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        trainer.step.update()
        for weight, old in zip(weights, before):
            torch.testing.assert_close(weight.detach(), old * (1 - 0.1 * decay))


@reaches("grad_clip")
def grad_clip(bench):
    norms = []
    for clip in (0.0, 0.01, 0.02):
        trainer = bench.trainer(grad_clip=clip)
        trainer.step(next(trainer.batches.epoch(0)), None)
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
    assert norms[0] > 0.1 and norms[1:] == pytest.approx([0.01, 0.02], rel=1e-3)


@reaches("label_smoothing")
def label_smoothing(bench):
    for smoothing in (0.0, 0.3):
        trainer = bench.trainer(label_smoothing=smoothing)
        batch = next(trainer.batches.epoch(0))
        with torch.no_grad():
            logits = copy.deepcopy(trainer.model).train()(trainer.normalise(batch.images))
        loss, _ = trainer.step(batch, None)
        target = F.one_hot(batch.labels, 10) * (1 - smoothing) + smoothing / 10
        assert loss.item() == pytest.approx(-(target * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-4)


@reaches("ema_decay")
def ema_decay(bench):
    """After one step: at most a tenth of the first weights is left, for averaging warms up."""
    for decay, left in ((0.05, 0.05), (0.98, 0.1)):
        trainer = bench.trainer(ema_decay=decay, epochs=1, batch_size=160)
        before = copy.deepcopy(trainer.model.state_dict())
        next(trainer.epochs())
        assert trainer.headline is trainer.averaged.module
        for name, value in trainer.model.state_dict().items():
            if value.is_floating_point():
                expected = left * before[name] + (1 - left) * value
                torch.testing.assert_close(trainer.headline.state_dict()[name], expected)
    trainer = bench.trainer(ema_decay=0.0)
    assert trainer.averaged is None and trainer.headline is trainer.model


@pytest.mark.parametrize("name", CHECKS)
def test_the_setting_reaches_what_it_sets(bench, name):
    CHECKS[name](bench)
