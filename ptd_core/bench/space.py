"""The section `space`: every method of parameters/space at equally many tokens, in time and in memory.

Beside the step with all tokens, and beside the way in which the methods' own code drops tokens: attention for all of
them with its whole matrix of weights, from which the class token's row is taken, and a gather afterwards.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ptd_core.bench.memory import peak_of
from ptd_core.bench.workload import CLASSES, Workload
from ptd_core.cost import cost
from ptd_core.machine.clock import interleave, with_times
from ptd_core.parameters import read_parameters
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.saliency import attention_rows, gather_tokens, kept_tokens, patch_scores
from ptd_core.token_drop import Keep, TokenDrop, TokenDropViT
from ptd_core.tokens import vit_parts
from ptd_core.tokens.fates import places_left

METHODS = PROJECT_ROOT / "parameters" / "space"
SHARE = 0.5  # of the patch tokens, after the last dropping block
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
        weights_BHTT = attention_rows(query, key)
        attended = vit_parts.project_out(attention, normed_BTE, weights_BHTT @ value)
        x_BTE = vit_parts.attention_residual(block, x_BTE, attended)
        index_BK = kept_tokens(patch_scores(weights_BHTT[:, :, 0], prefix), keep, prefix)
        x_BTE = vit_parts.mlp_residual(block, gather_tokens(x_BTE, index_BK))
        return x_BTE, places_left(self.drop.fate, place_BN, index_BK, prefix), index_BK


def space(work: Workload, rounds: int) -> list[dict]:
    """Training steps and their peak memory, each method with half of the tokens after its last dropping block."""
    base = work.recipe.replace(batch_size=max(2, work.small_batch), dataset="shapes")
    cases, rows = {}, []
    for name, recipe, keep in [(ALL, base, None), *methods(base)]:
        gathers = [False, True] if keep and _can_gather(recipe) else [False]
        for gather in gathers:
            case = name + GATHER * gather
            cases[case] = step(recipe, keep, gather)
            vit, drop = recipe.vit, recipe.token_drop
            rows.append({
                "case": case, "method": name, "gather": gather, "keep": keep[-1] if keep else vit.patch_tokens,
                "predicted": cost(vit, CLASSES).training / cost(vit, CLASSES, drop, keep).training,
                "peak_bytes": peak_of(functools.partial(step, recipe, keep, gather), recipe.device),
            })  # fmt: skip
    timings = interleave(cases, rounds, work.device)
    found = with_times(rows, timings, base.batch_size)
    return [{**row, "speedup": timings[ALL].over(timings[row["case"]])} for row in found]


def methods(base: Recipe, folder: Path = METHODS) -> list[tuple[str, Recipe, Keep]]:
    """Each method's name, the base with its settings of token drop, and what it keeps for SHARE of the tokens."""
    ours = {name: field.default for name, field in Recipe.model_fields.items() if name.startswith("drop_")}
    found = []
    for file in sorted(folder.glob("*.yaml")):
        own = {name: value for name, value in read_parameters(file).items() if name.startswith("drop_")}
        recipe = base.replace(**{**ours, **own})
        found.append((file.stem, recipe, keep_of(recipe)))
    return found


def keep_of(recipe: Recipe, share: float = SHARE) -> Keep:
    """What the recipe's policy keeps so that its last dropping block lets out `share` of the patch tokens.

    With several blocks each drops equally much of what reaches it; the nearest number above, where not all can be kept.
    """
    wanted = share * recipe.vit.patch_tokens
    ratios = (step / 1000 for step in range(1, 1000))
    keeps = (keep for keep in map(recipe.keep_at, ratios) if keep)
    return list(itertools.takewhile(lambda keep: keep[-1] >= wanted, keeps))[-1]


def step(recipe: Recipe, keep: Keep | None, gather: bool = False) -> Callable[[], None]:
    """The trainer's whole step with that keep; gather: as the methods' own code computes it."""
    work = Workload(recipe)
    if gather:
        return work.step(GatherAfterAttention(work.trainer.model, recipe.token_drop), keep)
    return work.trainers_step(keep)


def _can_gather(recipe: Recipe) -> bool:
    """Whether the method drops tokens, by class attention, after all have attended to all: there is another order."""
    drop = recipe.token_drop
    if not isinstance(drop, TokenDrop):
        return False
    return (drop.score, drop.attended) == ("class_attention", "all") and drop.fate in ("discard", "bypass")
