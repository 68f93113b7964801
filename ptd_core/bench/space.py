"""The section `space`: every method of parameters/space at equally many tokens, in time and in memory.

Beside the step with all tokens, and beside the way in which the methods' own code drops tokens: attention for all of
them with its whole matrix of weights, from which the class token's row is taken, and a gather afterwards.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ptd_core.bench.memory import peak_of
from ptd_core.bench.workload import CLASSES, Workload
from ptd_core.evaluation.methods import keep_of, methods
from ptd_core.machine.clock import interleave, with_times
from ptd_core.recipe import Recipe
from ptd_core.saliency import gather_tokens, kept_tokens, patch_scores
from ptd_core.token_drop import Keep, TokenDrop, TokenDropViT
from ptd_core.tokens import vit_parts
from ptd_core.tokens.fates import places_left

ALL, GATHER = "all tokens", ", gather after attention"


class GatherAfterAttention(TokenDropViT):
    """TokenDropViT's result where tokens leave after attention, by class attention, as the methods' own code has it."""

    def _drop(
        self, block: torch.nn.Module, x_BTE: Tensor, place_BN: Tensor, *, keep: int, **_: object
    ) -> tuple[Tensor, Tensor, Tensor]:
        attention, prefix = block.attn, self.vit.num_prefix_tokens
        normed_BTE = block.norm1(x_BTE)
        query = vit_parts.queries(attention, normed_BTE)
        key, value = vit_parts.keys_values(attention, normed_BTE)
        weights_BHTT = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)  # as autocast has it
        attended = vit_parts.project_out(attention, normed_BTE, weights_BHTT @ value)
        x_BTE = vit_parts.attention_residual(block, x_BTE, attended)
        class_BHT = weights_BHTT[:, :, 0]
        index_BK = kept_tokens(patch_scores(class_BHT, prefix), keep, prefix)
        left_BKE = gather_tokens(x_BTE, index_BK)
        if self.drop.fate == "fuse":
            weight_BT = class_BHT.detach().mean(dim=1).scatter(1, index_BK, 0.0).to(x_BTE.dtype)
            left_BKE = torch.cat([left_BKE, weight_BT.unsqueeze(1) @ x_BTE], dim=1)
        x_BTE = vit_parts.mlp_residual(block, left_BKE)
        return x_BTE, places_left(self.drop.fate, place_BN, index_BK, prefix), index_BK


def space(work: Workload, rounds: int) -> list[dict]:
    """Training steps and their peak memory, each method with half of the tokens after its last dropping block."""
    base = work.recipe.replace(batch_size=work.small_batch, dataset="shapes")
    cases, rows = {}, []
    methods_at_half = ((name, one, keep_of(one)) for name, one in methods(base).items())
    for name, recipe, keep in [(ALL, base, None), *methods_at_half]:
        gathers = [False, True] if keep and _can_gather(recipe) else [False]
        for gather in gathers:
            case = name + GATHER * gather
            cases[case] = step(recipe, keep, gather)
            rows.append({
                "case": case, "method": name, "gather": gather, "keep": keep[-1] if keep else recipe.vit.patch_tokens,
                "predicted": recipe.cost(CLASSES).training / recipe.cost(CLASSES, keep).training,
                "peak_bytes": peak_of(functools.partial(step, recipe, keep, gather), recipe.device),
            })  # fmt: skip
    timings = interleave(cases, rounds, work.device)
    found = with_times(rows, timings, base.batch_size)
    return [{**row, "speedup": timings[ALL].over(timings[row["case"]])} for row in found]


def step(recipe: Recipe, keep: Keep | None, gather: bool = False) -> Callable[[], None]:
    """The trainer's whole step with that keep; gather: as the methods' own code computes it."""
    work = Workload(recipe)
    if gather:
        return work.step(GatherAfterAttention(work.trainer.model, recipe.token_drop), keep)
    return work.trainers_step(keep)


def _can_gather(recipe: Recipe) -> bool:
    """Whether the method chooses by class attention after all have attended to all: attention with its whole matrix of
    weights, which gives both, is another way to compute it."""
    drop = recipe.token_drop
    if not isinstance(drop, TokenDrop):
        return False
    return (drop.score, drop.attended) == ("class_attention", "all") and drop.fate in ("discard", "fuse", "bypass")
