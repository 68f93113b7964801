"""The sections of the bench: each measures one question on a workload and returns plain numbers."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import torch

from ptd_core.bench.apart import Apart
from ptd_core.bench.clock import Timing, interleave
from ptd_core.bench.memory import peak_of
from ptd_core.bench.peers import encoder_vit, timm_vit
from ptd_core.bench.plain import PilImages, plain_step
from ptd_core.bench.workload import CLASSES, Workload, random_images
from ptd_core.cost import cost
from ptd_core.data.augment import augment_epoch
from ptd_core.machine.device import resolve_device, synchronize
from ptd_core.machine.fast_path import cpu_multiplies_bf16
from ptd_core.model import ATTENTION_KERNELS
from ptd_core.recipe import Recipe
from ptd_core.step import WarmupEma, autocast
from ptd_core.trainer import build_model

RATIOS = (0.0, 0.1, 0.2, 0.35)
COMPILATIONS = {"cpu": ("off", "inductor"), "cuda": ("off", "inductor", "cudagraphs"), "mps": ("off",)}
FEWER = 4  # batches are so much smaller where many cases are compared on a CPU


def paths(work: Workload, rounds: int) -> list[dict]:
    """Training steps in each precision and attention kernel, and the chosen ones with each compilation.

    What "auto" should choose here. bf16 is left out where the CPU only emulates it: a step would take minutes.
    """
    kind, chosen = work.device.type, work.path
    bf16 = kind == "cuda" or (kind == "cpu" and cpu_multiplies_bf16())
    tried = [
        dataclasses.replace(chosen, precision=precision, attention=attention)
        for precision in (("fp32", "bf16") if bf16 else ("fp32",))
        for attention in ATTENTION_KERNELS
    ]
    tried += [dataclasses.replace(chosen, compilation=compilation) for compilation in COMPILATIONS[kind]]
    cases, rows = {}, []
    for path in dict.fromkeys(tried):
        for ratio in (0.0, 0.35):
            name = f"{path}, d = {ratio}"
            cases[name] = work.step(build_model(work.recipe, CLASSES, path.attention), work.keep(ratio), path)
            rows.append({"case": name, **dataclasses.asdict(path), "ratio": ratio, "auto": path == chosen})
    return _with_times(rows, interleave(cases, rounds, work.device), work.recipe.batch_size)


def steps(work: Workload, rounds: int) -> list[dict]:
    """This project's step along the drop ratio in block 0 and at d = 0.35 in each block, beside the FLOPs bound."""
    placed = [(0, ratio) for ratio in RATIOS] + [(block, RATIOS[-1]) for block in range(1, work.recipe.depth)]
    cases, rows = {}, []
    for block, ratio in placed:
        recipe = work.recipe.model_copy(update={"drop_block": block})
        keep = work.keep(ratio)
        name = f"block {block}, d = {ratio}"
        cases[name] = work.step(build_model(recipe, CLASSES, work.path.attention), keep)
        bound = cost(recipe, CLASSES).training / cost(recipe, CLASSES, keep).training
        rows.append({"case": name, "block": block, "ratio": ratio, "keep": keep, "flops_bound": bound})
    timings = interleave(cases, rounds, work.device)
    rows = _with_times(rows, timings, work.recipe.batch_size)
    for row in rows:
        row["speedup"] = timings["block 0, d = 0.0"].over(timings[row["case"]])
    return rows


def lengths(work: Workload, rounds: int) -> list[dict]:
    """Forward and backward of two blocks against the number of tokens, around multiples of 8 from 128 to 257."""
    batch = work.recipe.batch_size // (FEWER if work.device.type == "cpu" else 1)
    recipe = work.recipe.model_copy(update={"depth": 2, "drop_block": 0})
    model = work.path.place(build_model(recipe, CLASSES, work.path.attention), work.device).train()
    tokens = torch.randn(batch, 257, recipe.embed_dim, device=work.device)

    def forward_backward(count: int) -> None:
        x = tokens[:, :count].contiguous().requires_grad_()
        y = x
        with autocast(work.device, work.path.precision):
            for block in model.blocks:
                y = block(y)
        y.float().sum().backward()
        model.zero_grad(set_to_none=True)

    near = {multiple + offset for multiple in range(128, 257, 8) for offset in (-1, 0, 1)}
    counts = sorted(count for count in near if 128 <= count <= 257)
    cases = {str(count): functools.partial(forward_backward, count) for count in counts}
    rows = [{"case": str(count), "tokens": count} for count in counts]
    return _with_times(rows, interleave(cases, rounds, work.device), batch)


def peers(work: Workload, rounds: int) -> list[dict]:
    """Whole training steps of this project and of others, data, moving average and all.

    The plain implementation has a process of its own: in this one, freed memory is kept, which would speed it up.
    """
    recipe, ours = work.recipe, work.path
    cases: dict[str, Callable] = {}
    for ratio in (0.0, 0.35):
        keep = work.keep(ratio)
        cases[f"this project, d = {ratio}"] = work.step(build_model(recipe, CLASSES, ours.attention), keep)
        for precision in dict.fromkeys(("fp32", ours.precision)):
            make = functools.partial(_plain_step, recipe, precision, keep)
            cases[f"plain implementation, {precision}, d = {ratio}"] = Apart(make)
        name = "timm VisionTransformer" + (f", patch_drop_rate {ratio}" if ratio else "")
        cases[name] = work.step(timm_vit(recipe, CLASSES, ratio), recipe.patch_tokens)
    cases["torch.nn.TransformerEncoder"] = work.step(encoder_vit(recipe, CLASSES), recipe.patch_tokens)
    timings = interleave(cases, rounds, work.device)
    for case in cases.values():
        if isinstance(case, Apart):
            case.close()
    rows = _with_times([{"case": name} for name in cases], timings, recipe.batch_size)
    for row in rows:
        mine = f"this project, d = {0.35 if '0.35' in row['case'] else 0.0}"
        row["ours_faster_by"] = timings[row["case"]].over(timings[mine])
    return rows


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
            images, labels, weight = next(batches)
            keep = work.keep(ratio)
            loss, _ = clocked("forward", lambda: trainer.step.forward(images, labels, keep, weight))  # noqa: B023
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
            for _ in augment_epoch(images, torch.randperm(n), work.trainer.augmentation, seed=0, epoch=0, chunk=n):
                pass

        cases = {"this project": ours, "torchvision, PIL images": lambda: [plain[index] for index in few]}
        timings = interleave(cases, rounds, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    counts = {"this project": n, "torchvision, PIL images": len(few)}
    rows = [{"case": name, "microseconds_per_image": 1e6 * timings[name].median / counts[name]} for name in cases]
    return _with_times(rows, timings, None)


def memory(work: Workload, rounds: int) -> list[dict]:
    """Peak memory of training steps with all tokens, above what is held before the first."""
    recipe = work.recipe
    cases = {
        "this project": functools.partial(_our_step, recipe),
        "plain implementation, fp32": functools.partial(_plain_step, recipe, "fp32", recipe.patch_tokens),
        "timm VisionTransformer": functools.partial(_timm_step, recipe),
    }
    if work.path.precision != "fp32":
        cases[f"plain implementation, {work.path.precision}"] = functools.partial(
            _plain_step, recipe, work.path.precision, recipe.patch_tokens
        )
    return [{"case": name, "peak_bytes": peak_of(make, recipe.device)} for name, make in cases.items()]


def growth(work: Workload, rounds: int) -> list[dict]:
    """How a step's time grows with the batch, the tokens (by the image's side) and the depth, at d = 0."""
    few = max(2, work.recipe.batch_size // (FEWER if work.device.type == "cpu" else 1))
    side, depth = work.recipe.image_size, work.recipe.depth
    changes = [{"batch_size": size} for size in (few // 4, few // 2, few, 2 * few) if size >= 2]
    changes += [{"batch_size": few, "image_size": size} for size in (side // 2, side * 3 // 2)]
    changes += [{"batch_size": few, "depth": layers} for layers in (max(1, depth // 2), 2 * depth)]
    cases, rows = {}, []
    for change in changes:
        part = Workload(work.recipe.model_copy(update={**change, "drop_block": 0}))
        name = ", ".join(f"{key} {value}" for key, value in change.items())
        cases[name] = part.step(build_model(part.recipe, CLASSES, part.path.attention), part.recipe.patch_tokens)
        shape = {"batch": part.recipe.batch_size, "tokens": 1 + part.recipe.patch_tokens, "depth": part.recipe.depth}
        rows.append({"case": name, **shape})
    timings = interleave(cases, rounds, work.device)
    return [
        {**row, "seconds_per_image": timings[row["case"]].median / row["batch"], **timings[row["case"]].as_dict()}
        for row in rows
    ]


SECTIONS = {
    "paths": paths, "steps": steps, "lengths": lengths, "peers": peers, "ledger": ledger,
    "augmentation": augmentation, "memory": memory, "growth": growth,
}  # fmt: skip


def _with_times(rows: list[dict], timings: dict[str, Timing], images: int | None) -> list[dict]:
    timed = []
    for row in rows:
        timing = timings[row["case"]]
        speed = {"images_per_second": images / timing.median} if images else {}
        timed.append({**row, **speed, **timing.as_dict()})
    return timed


def _data_seconds(work: Workload) -> float:
    """Of augmentation and mixing weights, per image, on the trainer's device."""
    batches = work.trainer.batches
    for epoch in range(2):  # the first warms up
        synchronize(work.device)
        start = time.perf_counter()
        work.trainer.mixing_weights(epoch)
        count = sum(len(images) for images, _ in batches(epoch))
        synchronize(work.device)
    return (time.perf_counter() - start) / count


def _evaluation_seconds(work: Workload) -> float:
    """Of one evaluated image."""
    for _ in range(2):
        start = time.perf_counter()
        work.trainer.evaluate(work.trainer.model, work.trainer.test)
    return (time.perf_counter() - start) / len(work.trainer.test)


def _our_step(recipe: Recipe) -> Callable[[], None]:
    work = Workload(recipe)
    return work.step(work.trainer.model, recipe.patch_tokens)


def _timm_step(recipe: Recipe) -> Callable[[], None]:
    return Workload(recipe).step(timm_vit(recipe, CLASSES), recipe.patch_tokens)


def _plain_step(recipe: Recipe, precision: str, keep: int) -> Callable[[], float]:
    return plain_step(recipe, random_images(recipe), resolve_device(recipe.device), keep, precision)
