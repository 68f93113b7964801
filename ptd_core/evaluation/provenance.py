"""What becomes of each patch token of an image under a method: provenance, as a map over the image.

Shapes: B images, S pixels a side, P prefix tokens, N patch tokens, T = P + N, G tokens a side (G * G = N).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptd_core.evaluation.accuracy import evaluating
from ptd_core.evaluation.token_maps import grid_of
from ptd_core.rivals.dynamicvit import DynamicViT
from ptd_core.rivals.evo_vit import EvoViT
from ptd_core.rivals.tome import Pairs, ToMeViT
from ptd_core.saliency import Chosen
from ptd_core.token_drop import TokenDropViT
from ptd_core.tokens.reaching import Keep

GONE, FUSED, WAITING, FOLLOWING = "gone", "fused", "waiting", "following"
_REST = {"discard": GONE, "merge": GONE, "fuse": FUSED, "skip": WAITING, "bypass": WAITING}


@dataclass(frozen=True)
class Provenance:
    """Where the patch tokens of images have gone when the last block that reduces them computes.

    part_BGG: int64, the place (counted row by row) of the token that each is part of by then: its own or, of those that
    are merged, one place for all of a group; -1 for the rest. rest: what became of these, one of
        GONE       nothing is left of them
        FUSED      all are in one more token
        WAITING    no queries and no MLP in that block; they return
        FOLLOWING  they are updated by what the block does to one token in their place
    computed: patch tokens that reach the block's MLP.
    """

    part_BGG: Tensor
    rest: str
    computed: int


@torch.no_grad()
def provenance(network: nn.Module, images: Tensor, keep: Keep, given_BG: Tensor | None = None) -> Provenance:
    """Normalised images (B, 3, S, S), run in evaluation mode by a network that keeps so many tokens.

    network: a TokenDropViT or one of the rivals. given_BG: the score of every patch token (B, N), where it wants one.
    Raises ValueError for another module, as the network does, and for images that are not square.
    """
    grid, trace, one_more = grid_of(network.vit, images), [], False  # one more: token, that stands for the rest
    all_BN = torch.arange(grid * grid, device=images.device).expand(len(images), -1)
    with evaluating(network):
        if isinstance(network, TokenDropViT):
            network.run_blocks(images, keep, given_BG, trace)
            part_BN, rest = _through_drops(trace, network.drop.fate), _REST[network.drop.fate]
            one_more = rest == FUSED and keep[-1] < trace[-1].place_BN.shape[1]
        elif isinstance(network, ToMeViT):
            network(images, keep, trace)
            part_BN, rest = _through_merges(trace, grid * grid), GONE
        elif isinstance(network, EvoViT):
            network(images, keep, trace)
            part_BN, rest = _kept_of(trace[-1:], network.vit.num_prefix_tokens, all_BN), FOLLOWING
            one_more = bool(trace)
        elif isinstance(network, DynamicViT):
            network(images, keep, trace)
            part_BN, rest = _kept_of(trace, network.vit.num_prefix_tokens, all_BN), GONE
        else:
            raise ValueError(f"{type(network).__name__} reduces no tokens in a way that is known here")
    return Provenance(part_BN.unflatten(1, (grid, grid)).cpu(), rest, keep[-1] + one_more)


def _through_drops(trace: list[Chosen], fate: str) -> Tensor:
    """The place that each token of the image is part of after all drops, -1 for none: (B, N)."""
    if _REST[fate] == WAITING:  # the others of an earlier drop have returned
        trace = trace[-1:]
    part_BN = torch.arange(trace[0].place_BN.shape[1], device=trace[0].place_BN.device)
    part_BN = part_BN.expand(len(trace[0].place_BN), -1)
    for chosen in trace:
        # What each place becomes; the last column stands for no place, and stays it.
        becomes = part_BN.new_full((len(part_BN), part_BN.shape[1] + 1), -1)
        becomes.scatter_(1, _or_last(chosen.place_BN, part_BN.shape[1]), chosen.part_BN)
        becomes[:, -1] = -1
        part_BN = becomes.gather(1, _or_last(part_BN, part_BN.shape[1]))
    return part_BN


def _or_last(place: Tensor, last: int) -> Tensor:
    return place.where(place >= 0, last)


def _through_merges(trace: list[Pairs], tokens: int) -> Tensor:
    """For each token of the image the first place of its group: (B, N)."""
    batch, device = len(trace[0][0]), trace[0][0].device
    where_BT = torch.arange(1 + tokens, device=device).expand(batch, -1)  # in the sequence, the class token with it
    for stay, go, partner in trace:
        staying, even = stay.shape[1], stay.shape[1] + go.shape[1]
        to = where_BT.new_empty((batch, even))
        to.scatter_(1, stay, torch.arange(staying, device=device).expand(batch, -1))
        to.scatter_(1, go, staying + partner)
        half = where_BT // 2
        where_BT = torch.where(where_BT % 2 == 0, to.gather(1, half.clamp_max(even - 1)), staying + half)
    first = where_BT.new_full((batch, 1 + tokens), tokens)
    places = torch.arange(tokens, device=device).expand(batch, -1)
    first.scatter_reduce_(1, where_BT[:, 1:], places, "amin")
    return first.gather(1, where_BT[:, 1:])


def _kept_of(trace: list[Tensor], prefix: int, all_BN: Tensor) -> Tensor:
    """Their own place for those that are kept, each time of those kept before, -1 for the others: (B, N).

    all_BN: the places of all tokens.
    """
    place = all_BN
    for index_BK in trace:
        place = place.gather(1, index_BK[:, prefix:] - prefix)
    return torch.full_like(all_BN, -1).scatter(1, place, place)
