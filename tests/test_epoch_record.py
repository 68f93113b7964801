"""Every field of an epoch's record against the same epoch done by hand: plain loops, a clock that only tests move."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from test_token_drop import full_attention_then_gather

from ptd_core import step as step_module
from ptd_core import trainer as trainer_module
from ptd_core.records.history import EpochRecord
from ptd_core.trainer import Trainer, build_model

FIELDS = {field.name for field in dataclasses.fields(EpochRecord)}
# Seconds, each a power of two of its own, so that no sum of some equals a sum of others.
BATCH, STEP, EVALUATION, COMPILING, PRINTING = 1.0, 8.0, 64.0, 1024.0, 16384.0
STEPS, IMAGES, CLASSES = 5, 32, 10
EXACT = {"dropout": 0.0, "drop_path": 0.0, "qkv_bias": False}  # a bias of keys has no gradient but rounding
SETTINGS = {**EXACT, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "lr": 4e-3, "label_smoothing": 0.1, "ema_decay": 0.8}
CURRICULUM = {0: (0.0, 64), 1: (0.125, 56), 2: (0.5, 32)}  # epoch: drop ratio, kept tokens of 64


def clocked(monkeypatch, trainer):
    """The trainer on a clock that its batches, steps, evaluations and compilations move, each by its own amount.

    And an `on_step` that moves it too.
    """
    now = [0.0]
    for module in (trainer_module, step_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def taking(seconds, function):
        def call(*arguments):
            now[0] += seconds
            return function(*arguments)

        return call

    class Step:
        optimizer, prepare = trainer.step.optimizer, staticmethod(taking(COMPILING, trainer.step.prepare))
        ranks, path = trainer.ranks, dataclasses.replace(trainer.path, compilation="inductor")  # said, but not so
        __call__ = staticmethod(taking(STEP, trainer.step))

    def epoch(number, first=0, made=trainer.batches.epoch):
        for batch in made(number, first):
            now[0] += BATCH
            yield batch

    trainer.step, trainer.batches.epoch = Step(), epoch
    trainer.evaluate = taking(EVALUATION, trainer.evaluate)

    def on_step(epoch, done, steps):
        now[0] += PRINTING

    return trainer, on_step


def learning_rates(recipe):
    """Of every step: up in a line for the warm-up's epochs, then down along half a cosine."""
    warm, total = recipe.warmup_epochs * STEPS, recipe.epochs * STEPS
    rise = [recipe.lr * (step + 1) / warm for step in range(warm)]
    return rise + [recipe.lr / 2 * (1 + math.cos(math.pi * i / (total - warm))) for i in range(total - warm)]


def trained_by_hand(recipe, dataset):
    """Of each epoch: {"train_loss", "train_accuracy", "of partners"}, the weights, and their moving average."""
    batches = Trainer(recipe, dataset).batches
    model = build_model(recipe, CLASSES, "explicit").train()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, foreach=False, fused=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std))
    rates = iter(learning_rates(recipe))
    for epoch in range(recipe.epochs):
        losses, right, right_of_partners = [], 0, 0
        for step, (images, labels, weight, _) in enumerate(batches.epoch(epoch)):
            partners = labels.flip(0)
            mixed = torch.stack([weight * images[i] + (1 - weight) * images[-1 - i] for i in range(IMAGES)])
            _, kept = CURRICULUM[epoch]
            logits = full_attention_then_gather(model, (mixed - mean) / std, {} if kept == 64 else {0: kept})
            share = weight.double().mean().item()
            target = share * F.one_hot(labels, CLASSES) + (1 - share) * F.one_hot(partners, CLASSES)
            target = target * (1 - recipe.label_smoothing) + recipe.label_smoothing / CLASSES
            loss = -(target * logits.log_softmax(1)).sum(1).mean()
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip, foreach=False)
            optimizer.step()
            done = epoch * STEPS + step
            beta = min(recipe.ema_decay, (1 + done) / (10 + done))
            with torch.no_grad():
                for slow, fast in zip(average.state_dict().values(), model.state_dict().values()):
                    slow.copy_(beta * slow + (1 - beta) * fast if slow.is_floating_point() else fast)
            losses.append(loss.item())
            right += sum(int(row.argmax() == label) for row, label in zip(logits, labels))
            right_of_partners += sum(int(row.argmax() == label) for row, label in zip(logits, partners))
        seen = STEPS * IMAGES
        numbers = {
            "train_loss": sum(losses) / STEPS,
            "train_accuracy": 100 * right / seen,
            "of partners": 100 * right_of_partners / seen,
        }
        yield numbers, model, average


@torch.no_grad()
def measured(model, images, labels, dataset):
    """Cross-entropy and accuracy in percent, an image at a time, in a copy of the model that is in evaluation mode."""
    model = copy.deepcopy(model).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std))
    losses, right = [], 0
    for image, label in zip(images, labels):
        (logits,) = model(((image / 255 - mean) / std)[None])
        losses.append(-logits.double().log_softmax(0)[label].item())
        right += int(logits.argmax() == label)
    return sum(losses) / len(labels), 100 * right / len(labels)


def same_weights(ours, truth):
    for name, value in truth.state_dict().items():
        torch.testing.assert_close(
            ours.state_dict()[name], value, rtol=5e-3, atol=5e-4, msg=lambda text, name=name: name + text
        )


def about(value):
    return pytest.approx(value, rel=1e-3, nan_ok=True) if isinstance(value, float) else value


@pytest.mark.parametrize("ema_decay", [SETTINGS["ema_decay"], 0.0])
def test_every_field_of_a_record_is_what_its_epoch_gives_by_hand(monkeypatch, tiny, tiny_shapes, ema_decay):
    recipe = tiny(**{**SETTINGS, "ema_decay": ema_decay})
    train, test = tiny_shapes.train, tiny_shapes.test
    trainer = Trainer(recipe, tiny_shapes, probes=(lambda trainer: {"epochs begun": trainer.next_epoch + 1.0},))
    trainer, on_step = clocked(monkeypatch, trainer)
    epochs, seen = trainer.epochs(on_step), []
    for epoch, (numbers, model, average) in enumerate(trained_by_hand(recipe, tiny_shapes)):
        record = next(epochs)  # the caller's time in `on_step` is nobody's
        same_weights(trainer.model, model)
        if ema_decay:
            same_weights(trainer.averaged.module, average)
        # From here on the trainer's own weights, so that no rounding in training tips an answer over.
        raw, averaged = trainer.model, trainer.averaged.module if ema_decay else None
        headline = averaged if ema_decay else raw
        test_loss, test_accuracy = measured(raw, test.images, test.labels, tiny_shapes)
        ema_loss, ema_accuracy = (
            measured(averaged, test.images, test.labels, tiny_shapes) if ema_decay else (math.nan, math.nan)
        )
        part = train.part(len(test.labels))
        _, clean = measured(headline, part.images, part.labels, tiny_shapes)
        ratio, kept = CURRICULUM[epoch]
        expected = {
            "epoch": epoch,
            "lr": learning_rates(recipe)[STEPS * (epoch + 1) - 1],
            "drop_ratio": ratio,
            "kept_tokens": kept,
            "train_loss": numbers["train_loss"],
            "train_accuracy": numbers["train_accuracy"],
            "clean_train_accuracy": clean,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "ema_test_loss": ema_loss,
            "ema_test_accuracy": ema_accuracy,
            "train_seconds": STEPS * (BATCH + STEP),
            "data_seconds": STEPS * BATCH,
            "eval_seconds": EVALUATION * (3 if ema_decay else 2),
            "images_per_second": IMAGES / (BATCH + STEP),
            "compile_seconds": COMPILING,  # each epoch has another number of tokens
            "extra": {"epochs begun": epoch + 1.0},
        }
        assert expected.keys() == FIELDS  # a new field wants a line here
        assert vars(record) == {name: about(value) for name, value in expected.items()}
        _, clean_raw = measured(raw, part.images, part.labels, tiny_shapes)
        seen.append({**expected, "clean, raw weights": clean_raw, **numbers})
    assert next(epochs, None) is None
    # Were two of these the same in every epoch, one could stand for the other unnoticed.
    alike = ["clean_train_accuracy", "test_accuracy", "train_accuracy", "of partners"]
    alike += ["ema_test_accuracy", "clean, raw weights"] if ema_decay else []
    columns = [tuple(row[name] for row in seen) for name in alike]
    assert len(set(columns)) == len(alike), dict(zip(alike, columns))
    assert all(row["train_accuracy"] > 0 for row in seen)
    assert not ema_decay or any(abs(row["ema_test_loss"] / row["test_loss"] - 1) > 0.01 for row in seen)


def test_an_epoch_without_evaluation_measures_nothing_and_takes_no_time_for_it(monkeypatch, tiny, tiny_shapes):
    recipe = tiny(**SETTINGS, eval_every=3)
    trainer, _ = clocked(monkeypatch, Trainer(recipe, tiny_shapes, probes=(lambda trainer: {"one": 1.0},)))
    first, second, last = trainer.epochs()
    for record in (first, second):
        names = ("clean_train_accuracy", "test_loss", "test_accuracy", "ema_test_loss", "ema_test_accuracy")
        assert all(math.isnan(getattr(record, name)) for name in names)
        assert (record.eval_seconds, record.extra) == (0.0, {})
    assert (last.eval_seconds, last.extra) == (3 * EVALUATION, {"one": 1.0})


def test_a_step_is_compiled_once_for_each_number_of_tokens(monkeypatch, tiny, tiny_shapes):
    trainer, _ = clocked(monkeypatch, Trainer(tiny(**SETTINGS, epochs=5, drop_end=1), tiny_shapes))
    records = list(trainer.epochs())
    assert [record.kept_tokens for record in records] == [64, 32, 32, 32, 32]
    assert [record.compile_seconds for record in records] == [COMPILING, COMPILING, 0.0, 0.0, 0.0]
    assert all(record.train_seconds == STEPS * (BATCH + STEP) for record in records)
