"""Sections of the bench on where a run's time and memory go: phases of an epoch, augmentation, peak memory."""

import functools
import statistics
import time
from collections.abc import Callable

import torch

from ptd_core.bench.candidates import PEER_RATIOS, candidates
from ptd_core.bench.memory import peak_of
from ptd_core.bench.plain import PilImages
from ptd_core.bench.workload import Workload
from ptd_core.data.augment import augment_epoch
from ptd_core.machine.clock import interleave, with_times
from ptd_core.machine.device import synchronize
from ptd_core.step import WarmupEma


def ledger(work: Workload, rounds: int) -> list[dict]:
    """Where the time of an epoch of 50,000 images and one evaluation goes, with all tokens and at d = 0.35."""
    recipe, trainer, device = work.recipe, work.trainer, work.device
    rows = []
    average = WarmupEma(trainer.model, decay=recipe.ema_decay or 0.9999)
    batches = work.batches()
    for ratio in (0.0, 0.35):
        spent: dict[str, list[float]] = {}

        def clocked(name: str, call: Callable, spent: dict = spent):
            synchronize(device)
            start = time.perf_counter()
            result = call()
            synchronize(device)
            spent.setdefault(name, []).append(time.perf_counter() - start)
            return result

        trainer.model.train()
        for number in range(rounds + 1):
            batch, keep = next(batches), recipe.keep_at(ratio)
            loss, _ = clocked("forward", lambda: trainer.step.forward(batch, keep))  # noqa: B023
            clocked("backward", lambda: trainer.step.backward(loss))  # noqa: B023
            clocked("optimizer", trainer.step.update)
            clocked("moving average", lambda: average.update(trainer.model, step=number))  # noqa: B023
        seconds = {name: statistics.median(times[1:]) * 50_000 / recipe.batch_size for name, times in spent.items()}
        seconds["data"] = _data_seconds(work) * 50_000
        seconds["evaluation"] = _evaluation_seconds(work) * 30_000
        total = sum(seconds.values())
        rows += [
            {"case": f"{name}, d = {ratio}", "ratio": ratio, "phase": name, "epoch_seconds": value,
             "share": value / total} for name, value in seconds.items()
        ]  # fmt: skip
    return rows


def augmentation(work: Workload, rounds: int) -> list[dict]:
    """The recipe's augmentation on one core, per image, beside torchvision's transforms of PIL images one by one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        recipe, n = work.recipe, 2048
        images = torch.randint(0, 256, (n, 3, recipe.image_size, recipe.image_size), dtype=torch.uint8)
        plain = PilImages(recipe, work.dataset)
        few = range(min(256, len(plain)))

        def ours() -> None:
            for _ in augment_epoch(images, torch.randperm(n), work.recipe.augmentation, seed=0, epoch=0, chunk=n):
                pass

        cases = {"this project": ours, "torchvision, PIL images": lambda: [plain[index] for index in few]}
        timings = interleave(cases, rounds, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    counts = {"this project": n, "torchvision, PIL images": len(few)}
    rows = [{"case": name, "microseconds_per_image": 1e6 * timings[name].median / counts[name]} for name in cases]
    return with_times(rows, timings, None)


def memory(work: Workload, rounds: int) -> list[dict]:
    """Peak memory of everybody's training steps, above what is held before the first."""
    return [
        {"case": candidate.name, "ratio": ratio,
         "peak_bytes": peak_of(functools.partial(candidate.alone, work.recipe), work.recipe.device)}
        for ratio in PEER_RATIOS for candidate in candidates(work.path, ratio)
    ]  # fmt: skip


def _data_seconds(work: Workload) -> float:
    """Of augmentation and mixing weights, per image, on the trainer's device."""
    batches = work.trainer.batches
    for epoch in range(2):  # the first warms up
        synchronize(work.device)
        start = time.perf_counter()
        count = sum(len(batch.images) for batch in batches.epoch(epoch))
        synchronize(work.device)
    return (time.perf_counter() - start) / count


def _evaluation_seconds(work: Workload) -> float:
    """Of one evaluated image."""
    for _ in range(2):
        start = time.perf_counter()
        work.trainer.evaluate(work.trainer.model, work.trainer.test)
    return (time.perf_counter() - start) / len(work.trainer.test)
