"""Every setting of a recipe, shown to reach what it sets: change it alone, and look for its own consequence.

A check is given values of one setting and looks at what the trainer, the data or the run's folder then is or does,
not at the recipe's parts. `test_every_setting_has_a_check` fails for a setting without one.
"""

import copy
import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Lines
from PIL import Image
from timm.layers import DropPath

from ptd_core.data import load as load_module
from ptd_core.data import randaugment
from ptd_core.data.dataset import Split
from ptd_core.errors import DataError
from ptd_core.machine import ranks as ranks_module
from ptd_core.machine.randomness import generator
from ptd_core.recipe import Recipe
from ptd_core.records import checkpoint
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.history import read_csv
from ptd_core.run import execute
from ptd_core.trainer import Trainer, build_model

PLAIN = {  # nothing random but the order and the weights
    "crop_padding": 0, "flip": False, "rand_ops": 0, "erase": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0,
    "dropout": 0.0, "drop_path": 0.0,
}  # fmt: skip
CHECKS = {}


def reaches(*names):
    def keep(check):
        CHECKS.update(dict.fromkeys(names, check))
        return check

    return keep


class Bench:
    """What checks work with: recipes, trainers and epochs on the tiny data, with everything random off."""

    def __init__(self, tiny, dataset, folder, monkeypatch):
        self.tiny, self.dataset, self.folder, self.monkeypatch = tiny, dataset, folder, monkeypatch

    def recipe(self, **settings):
        return self.tiny(**{**PLAIN, **settings})

    def trainer(self, dataset=None, **settings):
        return Trainer(self.recipe(**settings), dataset or self.dataset)

    def model(self, **settings):
        return self.trainer(**settings).model

    def batches(self, image=None, epochs=1, **settings):
        """The batches of the first epochs; image: float (S, S), stands for every training image."""
        dataset = self.dataset
        if image is not None:
            images = (255 * image).to(torch.uint8).expand(len(dataset.train), 3, -1, -1).contiguous()
            dataset = dataclasses.replace(dataset, train=Split(images, dataset.train.labels))
        trainer = self.trainer(dataset, **settings)
        return [batch for epoch in range(epochs) for batch in trainer.batches.epoch(epoch)]

    def images(self, **settings):
        return torch.cat([batch.images for batch in self.batches(**settings)])

    def steps(self, **settings):
        """(learning rate, keep, batch) of every step of a run that trains nothing."""
        trainer, seen = self.trainer(**{"ema_decay": 0.0, "eval_every": 100, **settings}), []

        class Step:
            optimizer, ranks, path = trainer.step.optimizer, trainer.ranks, trainer.path

            def __call__(self, batch, keep):
                seen.append((self.optimizer.param_groups[0]["lr"], keep, batch))
                return torch.zeros(()), torch.zeros(())

        trainer.step, trainer.evaluate = Step(), lambda model, split: (0.0, 0.0)
        list(trainer.epochs())
        return seen

    def kept(self, **settings):
        """Patch tokens of 64 that each epoch's steps are told to keep."""
        steps = self.steps(**settings)
        return [64 if keep is None else keep[0] for _, keep, _ in steps[:: len(steps) // settings.get("epochs", 3)]]

    def loaded(self, **settings):
        return self.recipe(**settings).load_dataset()

    def images_on_disk(self):
        for name in ("a", "b"):
            (self.folder / "pictures" / name).mkdir(parents=True)
            for i in range(25):
                Image.fromarray(np.full((20, 20, 3), 10 * i, np.uint8)).save(
                    self.folder / "pictures" / name / f"{i}.png"
                )
        return str(self.folder / "pictures")


@pytest.fixture
def bench(tiny, tiny_shapes, tmp_path, monkeypatch):
    return Bench(tiny, tiny_shapes, tmp_path, monkeypatch)


def test_every_setting_has_a_check():
    assert CHECKS.keys() == Recipe.model_fields.keys()


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_the_setting_reaches_what_it_sets(bench, name):
    CHECKS[name](bench)


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


@reaches("compilation")
def compilation(bench):
    asked = []
    bench.monkeypatch.setattr(torch, "compile", lambda model, mode=None: (asked.append(mode), model)[1])
    for name in ("off", "inductor", "cudagraphs"):
        with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=False):
            assert bench.trainer(compilation=name).path.compilation == name
    assert asked == [None, "reduce-overhead"]


# data


@reaches("dataset", "data_dir")
def dataset_and_its_folder(bench):
    folder = bench.images_on_disk()
    found = bench.loaded(dataset="folder", data_dir=folder, subset=0, test_subset=0)
    assert (found.name, found.classes, len(found.train), len(found.test)) == ("folder", ("a", "b"), 40, 10)
    with pytest.raises(DataError, match="elsewhere"):
        bench.loaded(dataset="folder", data_dir=folder + "/elsewhere")
    assert bench.loaded(data_dir=folder).name == "shapes"
    asked = []
    bench.monkeypatch.setattr(load_module, "load_cifar", lambda name, folder, **rest: asked.append((name, str(folder))))
    for name in ("cifar10", "cifar100"):
        bench.loaded(dataset=name, image_size=32, data_dir=folder)
    assert asked == [("cifar10", folder), ("cifar100", folder)]


@reaches("download")
def download(bench):
    asked = []
    bench.monkeypatch.setattr(load_module, "load_cifar", lambda *_, download, **rest: asked.append(download))
    for download in (True, False):
        bench.loaded(dataset="cifar10", image_size=32, download=download)
    assert asked == [True, False]


@reaches("image_size")
def image_size(bench):
    for size in (16, 24):
        dataset = bench.loaded(image_size=size)
        assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (3, size, size)
        assert bench.trainer(dataset, image_size=size).model.pos_embed.shape[1] == 1 + (size // 2) ** 2


@reaches("subset", "test_subset")
def subsets(bench):
    dataset = bench.loaded(subset=90, test_subset=50)
    assert (len(dataset.train), len(dataset.test)) == (90, 50)
    assert bench.trainer(dataset, subset=90).steps_per_epoch == 90 // 32


# model


@reaches("stem_width")
def stem_width(bench):
    for width in (4, 6):
        convolutions = [m for m in bench.model(stem_width=width).stem if isinstance(m, torch.nn.Conv2d)]
        assert [m.out_channels for m in convolutions] == [width, 2 * width, 16]


@reaches("stem_stride")
def stem_stride(bench):
    for stride in (2, 4):
        assert bench.model(stem_stride=stride).stem(torch.zeros(2, 3, 16, 16)).shape == (
            2,
            16,
            16 // stride,
            16 // stride,
        )


@reaches("embed_dim")
def embed_dim(bench):
    for width in (16, 24):
        model = bench.model(embed_dim=width)
        assert model.cls_token.shape == (1, 1, width) and model.head.in_features == width


@reaches("depth")
def depth(bench):
    assert [len(bench.model(depth=depth).blocks) for depth in (1, 3)] == [1, 3]


@reaches("num_heads")
def num_heads(bench):
    for heads in (1, 4):
        assert [block.attn.num_heads for block in bench.model(num_heads=heads).blocks] == [heads] * 2


@reaches("mlp_ratio")
def mlp_ratio(bench):
    for ratio in (0.5, 3.0):
        assert [block.mlp.fc1.out_features for block in bench.model(mlp_ratio=ratio).blocks] == [int(16 * ratio)] * 2


@reaches("qkv_bias")
def qkv_bias(bench):
    for bias in (True, False):
        assert {block.attn.qkv.bias is not None for block in bench.model(qkv_bias=bias).blocks} == {bias}


@reaches("dropout")
def dropout(bench):
    """After positions, after each block's attention, and twice in its MLP."""
    for rate in (0.0, 0.2):
        rates = [m.p for m in bench.model(dropout=rate).modules() if isinstance(m, torch.nn.Dropout)]
        assert rates[:1] + rates[-6:] == [rate] * 7 and set(rates) == {rate}
    x = torch.ones(4, 65, 16)
    dropped = (bench.model(dropout=0.2).train().pos_drop(x) == 0).float().mean().item()
    assert dropped == pytest.approx(0.2, abs=0.03)


@reaches("drop_path")
def drop_path(bench):
    model = bench.model(drop_path=0.3, depth=3)
    for block, rate in zip(model.blocks, (0.0, 0.15, 0.3)):
        found = [m.drop_prob for m in block.modules() if isinstance(m, DropPath)]
        assert found == pytest.approx([rate] * 2 if rate else [])
    dropped = (model.train().blocks[2].drop_path1(torch.ones(2000, 1, 1)) == 0).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.05)
    assert not any(isinstance(module, DropPath) for module in bench.model(drop_path=0.0).modules())


# token drop


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


# augmentation


@reaches("crop_padding")
def crop_padding(bench):
    for padding in (0, 2, 5):
        images = bench.images(image=torch.ones(16, 16), crop_padding=padding)
        black = (images[:, 0].amax(2) == 0).sum(1)  # rows of each
        assert (black.min(), black.max()) == (0, padding)


@reaches("flip")
def flip(bench):
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    for flip, share in ((False, 0.0), (True, 0.5)):
        mirrored = bench.images(image=left, flip=flip)[:, 0, 0, -1]
        assert mirrored.mean().item() == pytest.approx(share, abs=0.1)


@reaches("rand_ops", "rand_magnitude")
def rand_augment(bench):
    train = bench.dataset.train
    order = generator(0, 0, "order").permutation(len(train))
    images = train.images[torch.from_numpy(order)]
    seen = []
    for operations, magnitude in ((0, 9), (1, 9), (3, 9), (1, 25)):
        draws = randaugment.draw(generator(0, 0, "randaugment"), len(order), operations)
        expected = randaugment.apply(images, draws, magnitude) / 255
        seen.append(bench.images(rand_ops=operations, rand_magnitude=magnitude))
        assert torch.equal(seen[-1], expected)
    assert torch.equal(seen[0], images / 255)
    assert not any(torch.equal(one, two) for i, one in enumerate(seen) for two in seen[:i])


@reaches("erase")
def erase(bench):
    for probability in (0.0, 0.3, 1.0):
        erased = (bench.images(image=torch.ones(16, 16), erase=probability) != 1).flatten(1).any(1)
        assert erased.float().mean().item() == pytest.approx(probability, abs=0.1 * (0 < probability < 1))


@reaches("mixup_alpha")
def mixup_alpha(bench):
    """Beta(alpha, alpha) is near 1/2 for a large alpha, near 0 and 1 for a small one."""
    for alpha, lowest, highest in ((100.0, 0.0, 0.2), (0.02, 0.4, 0.5)):
        maps = torch.stack([batch.mix for batch in bench.batches(epochs=6, mixup_alpha=alpha)])
        assert len(maps) == 30 and (maps.amax((1, 2)) == maps.amin((1, 2))).all()
        distance = (maps[:, 0, 0] - 0.5).abs()
        assert lowest <= distance.median() and (alpha < 1 or distance.max() <= highest)
    assert all(batch.mix is None for batch in bench.batches())


@reaches("cutmix_alpha")
def cutmix_alpha(bench):
    """A box of half of the image for a large alpha, but for its parts beyond the edge; all or nothing for a small."""
    boxes = {}
    for alpha in (100.0, 0.02):
        maps = torch.stack([batch.mix for batch in bench.batches(epochs=6, cutmix_alpha=alpha)])
        assert ((maps == 0) | (maps == 1)).all()
        boxes[alpha] = (maps == 0).sum((1, 2))
    assert boxes[100.0].min() > 0 and 100 <= boxes[100.0].max() <= 144
    assert (boxes[0.02] == 0).sum() > 5 and boxes[0.02].max() > 144


@reaches("cutmix_share")
def cutmix_share(bench):
    for share in (0.0, 0.3, 1.0):
        batches = bench.batches(epochs=40, batch_size=32, mixup_alpha=1.0, cutmix_alpha=1.0, cutmix_share=share)
        boxed = [bool(((batch.mix == 0) | (batch.mix == 1)).all()) for batch in batches]
        assert np.mean(boxed) == pytest.approx(share, abs=0.1 * (0 < share < 1))


# training


@reaches("epochs", "batch_size")
def epochs_and_batches(bench):
    for epochs, size in ((1, 32), (2, 40), (2, 48)):
        steps = bench.steps(epochs=epochs, batch_size=size)
        assert len(steps) == epochs * (160 // size)
        assert {len(batch.images) for _, _, batch in steps} == {size}


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
        rates = [rate for rate, _, _ in bench.steps(lr=peak, warmup_epochs=warm)]
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
