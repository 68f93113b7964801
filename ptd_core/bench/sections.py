"""The sections of the bench: each measures one question on a workload and returns plain numbers."""

import dataclasses
import functools

import torch

from ptd_core.bench.accounts import augmentation, ledger, memory
from ptd_core.bench.agreement import agreement
from ptd_core.bench.apart import Apart
from ptd_core.bench.candidates import PEER_RATIOS, candidates
from ptd_core.bench.space import space
from ptd_core.bench.workload import CLASSES, Workload, dropping_none
from ptd_core.cost import cost
from ptd_core.machine.clock import interleave, with_times
from ptd_core.machine.fast_path import multiplies_bf16
from ptd_core.model import ATTENTION_KERNELS
from ptd_core.step import autocast
from ptd_core.token_drop import TokenDrop

RATIOS = (0.0, 0.1, 0.2, 0.35)
COMPILATIONS = {"cpu": ("off", "inductor"), "cuda": ("off", "inductor", "cudagraphs"), "mps": ("off",)}


def paths(work: Workload, rounds: int) -> list[dict]:
    """Training steps in each precision and attention kernel, and the chosen ones with each compilation.

    What "auto" should choose here. bf16 is left out where the CPU only emulates it: a step would take minutes.
    """
    kind, chosen = work.device.type, work.path
    bf16 = multiplies_bf16(work.device)
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
            cases[name] = work.step(work.network(path=path), work.keep(ratio), path)
            rows.append({"case": name, **dataclasses.asdict(path), "ratio": ratio, "auto": path == chosen})
    return with_times(rows, interleave(cases, rounds, work.device), work.recipe.batch_size)


def steps(work: Workload, rounds: int) -> list[dict]:
    """This project's step along the drop ratio in block 0 and at d = 0.35 in each block, beside its operations."""
    placed = [(0, ratio) for ratio in RATIOS] + [(block, RATIOS[-1]) for block in range(1, work.recipe.depth)]
    cases, rows, vit = {}, [], work.recipe.vit
    for block, ratio in placed:
        keep, drop = work.keep(ratio), TokenDrop((block,))
        name = f"block {block}, d = {ratio}"
        cases[name] = work.step(work.network((block,)), keep)
        predicted = cost(vit, CLASSES).training / cost(vit, CLASSES, drop, keep).training
        kept = keep[0] if keep else vit.patch_tokens
        rows.append({"case": name, "block": block, "ratio": ratio, "keep": kept, "predicted": predicted})
    timings = interleave(cases, rounds, work.device)
    rows = with_times(rows, timings, work.recipe.batch_size)
    for row in rows:
        row["speedup"] = timings["block 0, d = 0.0"].over(timings[row["case"]])
    return rows


def lengths(work: Workload, rounds: int) -> list[dict]:
    """Forward and backward of two blocks against the number of tokens, around multiples of 8 from 128 to 257."""
    batch = work.small_batch
    recipe = dropping_none(work.recipe, depth=2)
    model = work.path.place(recipe.vit.build(CLASSES, work.path.attention), work.device).train()
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
    return with_times(rows, interleave(cases, rounds, work.device), batch)


def peers(work: Workload, rounds: int) -> list[dict]:
    """Whole training steps of this project and of others, data, moving average and all."""
    rows = []
    for ratio in PEER_RATIOS:  # one after the other: all at once do not fit into a small machine's memory
        everyone = candidates(work.path, ratio)
        cases = {
            candidate.name: Apart(functools.partial(candidate.alone, work.recipe))
            if candidate.apart
            else candidate.step(work)
            for candidate in everyone
        }
        timings = interleave(cases, rounds, work.device)
        for case in cases.values():
            if isinstance(case, Apart):
                case.close()
        found = with_times([{"case": name, "ratio": ratio} for name in cases], timings, work.recipe.batch_size)
        rows += [{**row, "ours_faster_by": timings[row["case"]].over(timings[everyone[0].name])} for row in found]
    return rows


def growth(work: Workload, rounds: int) -> list[dict]:
    """How a step's time grows with the batch, the tokens (by the image's side) and the depth, at d = 0."""
    few = work.small_batch
    side, depth = work.recipe.image_size, work.recipe.depth
    changes = [{"batch_size": size} for size in (few // 8 * 2, few // 4 * 2, few, 2 * few) if size >= 2]
    changes += [{"batch_size": few, "image_size": size} for size in (side // 2, side * 3 // 2)]
    changes += [{"batch_size": few, "depth": layers} for layers in (max(1, depth // 2), 2 * depth)]
    cases, rows = {}, []
    for change in changes:
        part = Workload(dropping_none(work.recipe, dataset="shapes", **change))
        name = ", ".join(f"{key} {value}" for key, value in change.items())
        cases[name] = part.step(part.network(), None)
        shape = {
            "batch": part.recipe.batch_size,
            "tokens": 1 + part.recipe.vit.patch_tokens,
            "depth": part.recipe.depth,
        }
        rows.append({"case": name, **shape})
    timings = interleave(cases, rounds, work.device)
    return [
        {**row, "seconds_per_image": timings[row["case"]].median / row["batch"], **timings[row["case"]].as_dict()}
        for row in rows
    ]


SECTIONS = {
    "agreement": agreement,
    "paths": paths, "steps": steps, "lengths": lengths, "peers": peers, "ledger": ledger,
    "augmentation": augmentation, "memory": memory, "growth": growth,
    "space": space,
}  # fmt: skip
OF_HYBRID_VIT = ("steps", "lengths", "peers", "memory", "growth")  # which build it, or peers, in other sizes
