"""Where tokens go, against the definitions of the methods, one image and one token at a time."""

import definition
import pytest
import torch
from test_model import small
from test_token_drop import timm_vit

from ptd_core.evaluation.provenance import FOLLOWING, FUSED, GONE, WAITING, provenance
from ptd_core.rivals.dynamicvit import DynamicViT
from ptd_core.rivals.evo_vit import EvoViT
from ptd_core.rivals.tome import ToMeViT
from ptd_core.saliency import gather_tokens
from ptd_core.token_drop import TokenDrop, TokenDropViT
from ptd_core.tokens.vit_parts import embed

IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def groups_of(part_GG):
    """The sets of places that share a token; those of no token are in none."""
    part = part_GG.flatten().tolist()
    return {frozenset(p for p, q in enumerate(part) if q == one) for one in set(part) - {-1}}


@pytest.mark.parametrize(
    ("drop", "keep", "rest"),
    [
        (TokenDrop((0, 2), "norm"), (40, 17), GONE),
        (TokenDrop((1,), "norm", attended="kept"), (17,), GONE),
        (TokenDrop((0, 1, 2), "class_attention", fate="fuse"), (40, 30, 9), FUSED),
        (TokenDrop((0, 2), "norm", fate="merge"), (30, 9), GONE),
        (TokenDrop((0, 1), "norm", fate="merge", attended="kept"), (30, 9), GONE),
        (TokenDrop((0, 1), "norm", fate="skip"), (40, 17), WAITING),
        (TokenDrop((0, 2), "attention_received", fate="skip"), (20, 17), WAITING),  # some of these skipped the first
        (TokenDrop((1,), "class_attention", fate="bypass", until=2), (17,), WAITING),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["hybrid", "registers"])
def test_drops_are_followed(kind, drop, keep, rest):
    vit = small().double().eval() if kind == "hybrid" else timm_vit("registers").eval()
    images = IMAGES if kind == "hybrid" else IMAGES.repeat_interleave(2, 2).repeat_interleave(2, 3)
    parts = []
    definition.run(vit, images, drop, keep, parts=parts)
    found = provenance(TokenDropViT(vit, drop), images, keep)
    assert found.rest == rest and found.computed == keep[-1] + (drop.fate == "fuse")
    for part_GG, expected in zip(found.part_BGG, parts):
        assert groups_of(part_GG) == {frozenset(group) for group in expected if group}
        part = part_GG.flatten()
        assert all(part[place] == place for place in part[part >= 0])  # one of its own places names a group


@pytest.mark.parametrize("keep", [61, 40, 22])
def test_merged_pairs_are_followed_through_all_blocks(keep):
    vit, parts = small().double().eval(), []
    for image in IMAGES:
        definition.merged(vit, image, (64 - keep) // 3, parts)
    found = provenance(ToMeViT(vit), IMAGES, (keep,))
    for part_GG, expected in zip(found.part_BGG, parts):
        assert groups_of(part_GG) == {frozenset(group) for group in expected}
        assert len(groups_of(part_GG)) == keep == found.computed


def test_fast_tokens_are_those_that_all_move_alike():
    vit = small().double().eval()
    network = EvoViT(vit, 1)
    found = provenance(network, IMAGES, (20,))
    before, after = [], []
    with torch.no_grad():
        x, seen = embed(vit, IMAGES), None
        for number, block in enumerate(vit.blocks):
            before.append(x)
            x, seen, _ = network._block(block, x, seen, 20 if number else None)
            after.append(x)
    moved = (after[-1] - before[-1])[:, 1:]
    alike = (moved - moved.median(dim=1, keepdim=True).values).norm(dim=-1) < 1e-9
    assert found.rest == FOLLOWING and found.computed == 21 and alike.sum(dim=1).tolist() == [44, 44]
    assert torch.equal(found.part_BGG.flatten(1) < 0, alike)


def test_a_predictor_keeps_what_it_finds_most_probable():
    torch.manual_seed(2)
    vit = small().double().eval()
    network = DynamicViT(vit, (0, 2), vit).double().eval()
    found = provenance(network, IMAGES, (30, 11))
    for image, part_GG in zip(IMAGES, found.part_BGG):
        x, places = embed(vit, image.unsqueeze(0)), list(range(64))
        for number, block in enumerate(vit.blocks):
            if number in (0, 2):
                patches = x[:, 1:]
                says = network.predictors[number // 2](patches, torch.ones_like(patches[:, :, :1]))[0, :, 0].tolist()
                best = sorted(sorted(range(len(says)), key=lambda t: -says[t])[: (30, 11)[number // 2]])
                x = gather_tokens(x, torch.tensor([[0, *(token + 1 for token in best)]]))
                places = [places[token] for token in best]
            x = block(x)
        assert {min(group) for group in groups_of(part_GG)} == set(places) and (part_GG >= 0).sum() == 11
    assert found.rest == GONE


def test_what_is_no_method_is_refused():
    class Other(torch.nn.Module):
        vit = small()

    with pytest.raises(ValueError, match="Other reduces no tokens"):
        provenance(Other(), IMAGES.float(), (3,))


def test_what_keeps_all_adds_no_token():
    """The token that was fused before is one of those that reach a last block which keeps all."""
    vit = small().double().eval()
    assert provenance(TokenDropViT(vit, TokenDrop((0, 1), fate="fuse")), IMAGES, (10, 11)).computed == 11
    slow = provenance(EvoViT(vit, 1), IMAGES, (64,))
    assert slow.computed == 64 and torch.equal(slow.part_BGG.flatten(1), torch.arange(64).expand(2, -1))
