"""The training loop against loops written out by hand, and what it promises about seeds, epochs and evaluation."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import without_clocks

from ptd_core.data.dataset import Dataset, Split
from ptd_core.errors import DataError, DeviceError, TrainingError
from ptd_core.machine.randomness import torch_seed
from ptd_core.schedule import learning_rate
from ptd_core.step import WarmupEma
from ptd_core.token_drop import TokenDropViT
from ptd_core.trainer import Trainer, build_model


def test_training_equals_a_plain_loop(tiny, tiny_shapes):
    """Without mixing: optimizer, schedule, clipping, smoothing, averaging written out with plain PyTorch."""
    # Without biases on keys: their gradient is zero but for rounding, which AdamW would blow up to full steps.
    recipe = tiny(mixup_alpha=0.0, cutmix_alpha=0.0, epochs=2, warmup_epochs=1, qkv_bias=False)
    trainer = Trainer(recipe, tiny_shapes)
    batches = {epoch: [(x.clone(), y.clone()) for x, y, *_ in trainer.batches.epoch(epoch)] for epoch in range(2)}
    list(trainer.epochs())

    # In the same memory format: another one rounds otherwise, which AdamW blows up where gradients are near zero.
    model = build_model(recipe, 10).train().to(memory_format=torch.channels_last)
    network = TokenDropViT(model)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=recipe.weight_decay, foreach=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (tiny_shapes.mean, tiny_shapes.std))
    step = 0
    for epoch in range(2):
        torch.manual_seed(torch_seed(recipe.seed, epoch, "dropout"))
        keep = [(64,), (56,)][epoch]  # d = 0 at epoch 0, (1/2)^2 * 0.5 = 1/8 at epoch 1
        for images, labels in batches[epoch]:
            optimizer.param_groups[0]["lr"] = learning_rate(step, peak=recipe.lr, warmup_steps=5, total_steps=10)
            logits = network((images - mean) / std, keep)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
            if norm > recipe.grad_clip:
                for p in model.parameters():
                    p.grad *= recipe.grad_clip / (norm + 1e-6)
            optimizer.step()
            decay = min(recipe.ema_decay, (1 + step) / (10 + step))
            for slow, fast in zip(average.state_dict().values(), model.state_dict().values()):
                if slow.is_floating_point():
                    slow.mul_(decay).add_(fast, alpha=1 - decay)
                else:
                    slow.copy_(fast)
            step += 1
    for ours, truth in ((trainer.model, model), (trainer.averaged.module, average)):
        for name, value in truth.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=2e-4, atol=2e-5)


def test_average_equals_a_hand_written_loop_with_buffers():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).double()
    ema = WarmupEma(model, decay=0.6)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for n in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(2, 3, 5, 5, dtype=torch.float64))
        ema.update(model, step=n)
        beta = min(0.6, (1 + n) / (10 + n))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = beta * expected[name] + (1 - beta) * value
    for name, value in ema.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
    assert ema.module.state_dict()["1.num_batches_tracked"] == 30
    with pytest.raises(ValueError, match="needs step"):
        ema.update(model)


def test_same_seed_same_run_and_another_seed_another(tiny, tiny_shapes):
    runs = [Trainer(tiny(seed=seed), tiny_shapes) for seed in (0, 0, 1)]
    records = [without_clocks(trainer.epochs()) for trainer in runs]
    assert records[0] == records[1] != records[2]
    for one, two in zip(runs[0].model.state_dict().values(), runs[1].model.state_dict().values()):
        assert torch.equal(one, two)


def test_going_on_from_a_saved_state_equals_not_stopping(tiny, tiny_shapes):
    whole, first = Trainer(tiny(), tiny_shapes), Trainer(tiny(), tiny_shapes)
    expected = without_clocks(whole.epochs())
    begun = [next(first.epochs())]
    second = Trainer(tiny(), tiny_shapes)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.rand(7)  # a fresh process has another random state
    assert without_clocks(begun + list(second.epochs())) == expected
    for ours, truth in zip(second.averaged.module.state_dict().values(), whole.averaged.module.state_dict().values()):
        assert torch.equal(ours, truth)


def test_baseline_is_token_drop_with_ratio_zero(tiny, tiny_shapes):
    """A curriculum that never drops leaves the run as it was, bit for bit, wherever its block is."""
    one = without_clocks(Trainer(tiny(drop_final=0.0), tiny_shapes).epochs())
    two = without_clocks(Trainer(tiny(drop_final=0.0, drop_block=1, drop_start=1), tiny_shapes).epochs())
    assert one == two


def test_records_say_what_the_curriculum_and_schedule_were(tiny, tiny_shapes):
    records = list(Trainer(tiny(), tiny_shapes).epochs())
    assert [record.kept_tokens for record in records] == [64, 56, 32]
    assert [record.drop_ratio for record in records] == [0.0, 0.125, 0.5]
    assert records[0].lr == tiny().lr  # the last step of the only warm-up epoch
    assert records[-1].lr == learning_rate(14, peak=tiny().lr, warmup_steps=5, total_steps=15)
    for record in records:
        assert record.images_per_second == pytest.approx(160 / record.train_seconds)


def test_evaluation_every_so_many_epochs_and_at_the_end(tiny, tiny_shapes):
    records = list(Trainer(tiny(epochs=5, eval_every=2), tiny_shapes).epochs())
    assert [record.evaluated for record in records] == [False, True, False, True, True]
    assert math.isnan(records[0].clean_train_accuracy)


def test_evaluation_equals_one_image_at_a_time(tiny, tiny_shapes):
    trainer = Trainer(tiny(eval_batch_size=7), tiny_shapes)
    loss, accuracy = trainer.evaluate(trainer.model.train(), trainer.test)
    assert trainer.model.training
    model = trainer.model.eval()
    losses, correct = [], 0
    for image, label in zip(tiny_shapes.test.images, tiny_shapes.test.labels):
        pixels = torch.from_numpy(image.numpy().astype(np.float64) / 255)
        mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (tiny_shapes.mean, tiny_shapes.std))
        logits = model(((pixels - mean) / std).float()[None])
        losses.append(-logits.double().log_softmax(1)[0, label].item())
        correct += int(logits.argmax() == label)
    assert loss == pytest.approx(sum(losses) / 60, rel=1e-5)
    assert accuracy == pytest.approx(100 * correct / 60)


def test_every_image_is_seen_once_an_epoch(tiny):
    """Images that carry their own number, unaugmented: 5 batches of 32 out of 170, none twice, another order next."""
    numbers = torch.arange(170)
    images = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    split = Split(images, numbers % 2)
    dataset = Dataset("numbers", split, split, ("even", "odd"), (0.5,) * 3, (0.5,) * 3)
    trainer = Trainer(
        tiny(crop_padding=0, flip=False, rand_ops=0, erase=0.0, mixup_alpha=0.0, cutmix_alpha=0.0), dataset
    )
    orders = []
    for epoch in range(2):
        seen = [((x[:, 0, 0, 0] * 255).round().long(), y) for x, y, *_ in trainer.batches.epoch(epoch)]
        assert len(seen) == 5
        order = torch.cat([x for x, _ in seen])
        assert len(set(order.tolist())) == 160
        assert torch.equal(order % 2, torch.cat([y for _, y in seen]))
        orders.append(order.tolist())
    assert orders[0] != orders[1]


def test_loss_that_is_not_finite_stops_with_epoch_and_step(tiny, tiny_shapes):
    trainer = Trainer(tiny(), tiny_shapes)
    epochs = trainer.epochs()
    next(epochs)
    calls = []

    def poison(model, arguments, output):
        calls.append(1)
        return output * math.inf if len(calls) == 4 else output

    trainer.model.head.register_forward_hook(poison)
    with pytest.raises(TrainingError, match="epoch 2, step 4"):
        next(epochs)


def test_too_few_images_and_absent_device_are_refused(tiny, tiny_shapes):
    with pytest.raises(DataError, match="160 training images do not fill one batch of 512"):
        Trainer(tiny(subset=0, batch_size=512), tiny_shapes)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="0 CUDA devices"):
            Trainer(tiny(device="cuda"), tiny_shapes)


def test_probes_measure_after_each_evaluated_epoch(tiny, tiny_shapes):
    def probe(trainer):
        return {"largest": max(p.abs().max().item() for p in trainer.model.parameters())}

    plain = list(Trainer(tiny(eval_every=2), tiny_shapes).epochs())
    probed = list(Trainer(tiny(eval_every=2), tiny_shapes, probes=(probe, lambda trainer: {"one": 1.0})).epochs())
    assert [set(record.extra) for record in probed] == [set(), {"largest", "one"}, {"largest", "one"}]
    assert probed[1].extra["largest"] != probed[2].extra["largest"] and probed[1].extra["one"] == 1.0
    assert [dataclasses.replace(record, extra={}) for record in without_clocks(probed)] == without_clocks(plain)
