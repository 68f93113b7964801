"""What a saliency page holds of each model: maps of every score, the tokens that they keep, and the model's answers.

A score is shown in two ways. In one block alone, with all tokens before it: then ranks give the kept tokens at every
drop ratio. And as in the run, where a block sees what earlier ones let through, or where the tokens are not simply the
top scores: then the network says what it keeps, at a few drop ratios, the stops.

Shapes: B images, M blocks, D dropping blocks, R stops, H heads, N patch tokens.
"""

import base64
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ptd_core.evaluation.accuracy import evaluating
from ptd_core.evaluation.attention_maps import attention_maps
from ptd_core.evaluation.token_maps import TokenMap, token_maps
from ptd_core.machine.randomness import seeded
from ptd_core.saliency import GIVEN
from ptd_core.schedule import DropSchedule
from ptd_core.token_drop import Keep, TokenDrop
from ptd_core.views.dropping import ATTENTIONS, Dropping

STOPS = 4


@dataclass(frozen=True)
class Stop:
    """A drop ratio at which a page shows what the network keeps in each of the run's dropping blocks."""

    ratio: float
    keep: Keep
    reaching: list[int]

    @property
    def numbers(self) -> dict:
        return {"ratio": self.ratio, "keep": self.keep, "reaching": self.reaching}


def stops_of(dropping: Dropping, tokens: int) -> list[Stop]:
    """Up to four of the run's drop ratios, from the first to the last; none where ranks say all, block by block."""
    own = dropping.own
    if own is None or (len(own.blocks) == 1 and own.choice == "top"):
        return []
    ratios = sorted(set(dropping.ratios) or {share * dropping.ratio for share in (0, 1 / 3, 2 / 3, 1)})
    by_keep = {dropping.keep_at(ratio) or (tokens,) * len(own.blocks): ratio for ratio in ratios}
    found = [Stop(ratio, keep, own.reaching(keep, tokens)) for keep, ratio in by_keep.items()]
    places = np.linspace(0, len(found) - 1, min(STOPS, len(found))).round().astype(int)
    return [found[place] for place in places]


def keep_alone(ratio: float, tokens: int) -> int:
    """Tokens that a drop ratio keeps in one block."""
    return max(1, DropSchedule.tokens_at_ratio(ratio, tokens))


def bytes_of_view(tokens: int, blocks: int, heads: int, scores: int, drops: int) -> int:
    """Bytes of one model's maps for one image, before base64. drops: stops times dropping blocks."""
    alone = blocks * (heads + scores) * tokens * (2 if tokens <= 256 else 3)  # a level and a rank a token
    return alone + scores * drops * (tokens + 2 * -(-tokens // 8))


@torch.no_grad()
def view_of(
    label: str,
    vit: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    classes,
    scores: list[str],
    own: TokenDrop | None,
    stops: list[Stop],
    given: Tensor | None,
) -> dict:
    """One model's maps of the scores for normalised images (B, 3, S, S), and its answers."""
    with evaluating(vit):
        probabilities = vit(inputs).softmax(1).cpu()
    best = probabilities.topk(min(3, len(classes)), 1)
    return {
        "label": label,
        "alone": [_alone(vit, inputs, score, given) for score in scores],
        "inRun": [_in_run(vit, inputs, score, own, stops, given) for score in scores] if stops else [],
        "answers": [
            [[classes[number], sure] for number, sure in zip(numbers, row)]
            for numbers, row in zip(best.indices.tolist(), _rounded(best.values))
        ],
        "truth": _rounded(probabilities.gather(1, labels.cpu().clamp(min=0)[:, None]).squeeze(1)),
    }


def _alone(vit: nn.Module, inputs: Tensor, score: str, given: Tensor | None) -> dict:
    """Maps of every block with all tokens (B, M, 1, N), for class attention of every head too (B, M, 1 + H, N)."""
    blocks = tuple(range(len(vit.blocks)))
    if score == "class_attention":
        maps = torch.stack([attention_maps(vit, inputs, block).flatten(2) for block in blocks], 1)  # (B, M, H, N)
        maps = torch.cat([maps.mean(2, keepdim=True), maps], 2)
    else:
        found = _maps(vit, inputs, TokenDrop(blocks, score), None, given)
        maps = torch.stack([one.scores_BGG.flatten(1) for one in found], 1).unsqueeze(2)
    # Levels are for the eye; the kept tokens come from ranks, because rounded levels have ties that scores have not.
    order = maps.argsort(dim=-1, descending=True, stable=True)
    kind = np.uint8 if maps.shape[-1] <= 256 else np.uint16
    return {**_coloured(maps, score), "order": packed(order.numpy(), kind)}


def _in_run(
    vit: nn.Module, inputs: Tensor, score: str, own: TokenDrop, stops: list[Stop], given: Tensor | None
) -> dict:
    """Maps of the run's dropping blocks at each stop (B, R, D, N), which tokens reach them and which they keep.

    Another score than the run's takes its place, and keeps its top tokens.
    """
    policy = own if score == own.score else replace(own, score=score, choice="top")
    found = [_maps(vit, inputs, policy, stop.keep, given) for stop in stops]
    maps = torch.stack([torch.stack([one.scores_BGG.flatten(1) for one in row], 1) for row in found], 1)
    kept = torch.stack([torch.stack([one.kept_BGG.flatten(1) for one in row], 1) for row in found], 1)
    return {**_coloured(maps, score), "reached": _bits(~maps.isnan()), "kept": _bits(kept)}


def _maps(vit: nn.Module, inputs: Tensor, policy: TokenDrop, keep: Keep | None, given: Tensor | None) -> list[TokenMap]:
    with seeded(0):  # what a score or a choice draws, the same each time that the page is made
        return token_maps(vit, policy, keep, inputs, given if policy.score in GIVEN else None)


def _coloured(maps: Tensor, score: str) -> dict:
    """Levels 0 to 255 from `lowest` to `highest` of each map (..., N); attention begins at 0. NaN is level 0."""
    maps = maps.float()
    known = ~maps.isnan()
    highest = maps.where(known, -torch.inf).amax(-1, keepdim=True)
    lowest = maps.where(known, torch.inf).amin(-1, keepdim=True)
    if score in ATTENTIONS:
        lowest = torch.zeros_like(lowest)
    levels = 255 * (maps - lowest) / (highest - lowest).clamp_min(1e-30)
    return {
        "levels": packed(levels.nan_to_num(0).round().numpy(), np.uint8),
        "highest": _numbers(highest),
        "lowest": _numbers(lowest),
    }


def packed(values: np.ndarray, kind) -> str:
    """Numbers as base64 of their bytes, little end first."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))).decode()


def _bits(mask: Tensor) -> str:
    """A mask (..., N) as base64, eight tokens a byte, each map from a byte of its own on."""
    return packed(np.packbits(mask.numpy(), axis=-1), np.uint8)


def _numbers(values: Tensor) -> list:
    """One number for each map, in the order of the maps, with three digits."""
    return [float(f"{value:.3g}") for value in values.flatten().tolist()]


def _rounded(values: Tensor) -> list:
    return np.round(values.double().numpy(), 5).tolist()
