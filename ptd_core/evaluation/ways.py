"""One trained model, evaluated in many ways: what comes out of each, how fast it is, and how fast it should be."""

import functools
import math

import torch
from torch import nn

from ptd_core.data.dataset import Dataset, Split
from ptd_core.evaluation.accuracy import evaluating
from ptd_core.evaluation.fewer_tokens import Normalise, Outcome, Reduced, evaluate
from ptd_core.evaluation.policies import Point
from ptd_core.machine.clock import Timing, interleave
from ptd_core.machine.device import resolve_device
from ptd_core.machine.fast_path import FastPath
from ptd_core.recipe import Recipe
from ptd_core.records.stamp import stamp
from ptd_core.step import autocast

WHOLE = None  # the way of evaluating with all tokens, the same for every policy


def rows_of(
    vit: nn.Module, recipe: Recipe, dataset: Dataset, ways: list[Point], *, images: int = 0, rounds: int = 0
) -> list[dict]:
    """For each way what a `table.Row` holds, but for the run's names.

    images: of the test set, class-balanced; 0: all. rounds: samples of each speed, on one batch of the recipe's size;
    0: none is measured. The model is moved to the recipe's device.
    """
    device = resolve_device(recipe.device)
    path = FastPath.choose(device, recipe.precision, recipe.attention, "off")
    vit = path.place(vit, device)
    train, test = dataset.train.to(device), (dataset.test.part(images) if images else dataset.test).to(device)
    normalise = dataset.normaliser(device)
    reduced = {
        policy: Reduced.of(vit, policy, train, normalise) for policy in dict.fromkeys(point.policy for point in ways)
    }
    outcomes: dict[Point | None, Outcome] = {}
    for point in ways:
        if _case(point) not in outcomes:
            outcomes[_case(point)] = evaluate(
                reduced[point.policy], point.keep, test, normalise,
                batch_size=recipe.eval_batch_size, precision=path.precision, seed=recipe.seed,
            )  # fmt: skip
    batch = test.part(recipe.batch_size)
    times = _times(vit, reduced, ways, batch, normalise, path.precision, rounds) if rounds else {}
    about = stamp(device)
    whole = recipe.cost(len(dataset.classes)).forward
    return [
        {
            **_names(point.policy),
            "kept": point.kept,
            "images": len(test),
            **vars(outcomes[_case(point)]),
            "images_per_second": len(batch) / times[_case(point)].median if times else math.nan,
            "faster": times[WHOLE].over(times[_case(point)]) if times else math.nan,
            "predicted": whole / point.policy.cost(len(dataset.classes), point.keep).forward,
            "precision": path.precision,
            "device": about["device"],
            "torch": about["versions"]["torch"],
            "commit": str(about["commit"]),
        }
        for point in ways
    ]


def _case(point: Point) -> Point | None:
    return point if point.keep else WHOLE


def _times(
    vit: nn.Module,
    reduced: dict[Recipe, Reduced],
    ways: list[Point],
    batch: Split,
    normalise: Normalise,
    precision: str,
    rounds: int,
) -> dict[Point | None, Timing]:
    """Forward passes of a batch, each way's with whoever gives its score, and that with all tokens."""
    images = normalise(batch.images.float() / 255)
    masks = None if batch.masks is None else batch.masks.to(images.device)

    @torch.inference_mode()
    def forward(network: nn.Module, point: Point | None) -> None:
        with autocast(images.device, precision):
            if point is WHOLE:
                network(images)
                return
            giver = reduced[point.policy].giver
            network(images, point.keep, *(() if giver is None else (giver(images, masks).detach(),)))

    cases = {WHOLE: functools.partial(forward, vit, WHOLE)}
    cases |= {point: functools.partial(forward, reduced[point.policy].network, point) for point in ways if point.keep}
    with evaluating(vit):
        return interleave(cases, rounds, images.device)


def _names(policy: Recipe) -> dict[str, str]:
    drop = policy.token_drop
    own = policy.drop_method == "token_drop"
    blocks = ", ".join(map(str, drop.blocks)) if own else ""
    named = {name: getattr(policy, f"drop_{name}") if own else "" for name in ("score", "choice", "fate", "attended")}
    if policy.drop_score_block != -1:  # two policies that differ in this alone are two
        named["score"] += f" of block {policy.drop_score_block}"
    if policy.drop_until != -1:
        named["fate"] += f" until block {policy.drop_until}"
    return {"method": policy.drop_method, **named, "blocks": blocks}
