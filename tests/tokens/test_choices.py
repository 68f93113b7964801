"""Sampling against the distribution that it should follow, the greedy spread against a search in plain loops, and near
tokens under autocast against float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from ptd_core.saliency import SCORES, Seen, kept_tokens
from ptd_core.tokens.choices import ROUNDS, greedy, sample
from ptd_core.tokens.fates import part_of

WEIGHTS = (0.05, 0.4, 0.1, 0.25, 0.2)


def p_value(found, expected) -> float:
    """Pearson's chi-square test."""
    statistic = sum((one - other) ** 2 / other for one, other in zip(found, expected))
    half = torch.tensor([(len(found) - 1) / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(*half).item()


def in_turn(order) -> float:
    """The probability of drawing these tokens one after another without replacement, in proportion to WEIGHTS."""
    left, probability = 1.0, 1.0
    for token in order:
        probability *= WEIGHTS[token] / left
        left -= WEIGHTS[token]
    return probability


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_sampling_is_in_proportion_without_replacement(keep):
    draws = 40_000
    torch.manual_seed(keep)
    scores = torch.tensor(WEIGHTS).expand(draws, -1)
    kept = kept_tokens(sample(scores, keep, None), keep, prefix=0)
    sets = list(itertools.combinations(range(5), keep))
    found = [int((kept == torch.tensor(one)).all(dim=1).sum()) for one in sets]
    expected = [draws * sum(map(in_turn, itertools.permutations(one))) for one in sets]
    assert sum(found) == draws and p_value(found, expected) > 1e-3
    assert p_value(found, [draws / len(sets)] * len(sets)) < 1e-6  # not uniform


def test_tokens_of_weight_zero_come_last():
    torch.manual_seed(0)
    scores = torch.tensor([[0.0, 0.5, 0.0, 0.5]]).expand(100, -1)
    assert (kept_tokens(sample(scores, 2, None), 2, prefix=0) == torch.tensor([1, 3])).all()


def spread(x, keep):
    """Half of the tokens evenly over the image, then in ROUNDS rounds those farthest from all that are chosen."""

    def distance(token, others):
        return min(1 - F.cosine_similarity(x[token], x[other], dim=0).item() for other in others)

    seeds = (keep + 1) // 2
    chosen = [number * len(x) // seeds for number in range(seeds)]
    for turn in range(ROUNDS):
        wanted = (keep - seeds) * (turn + 1) // ROUNDS - (keep - seeds) * turn // ROUNDS
        left = [token for token in range(len(x)) if token not in chosen]
        chosen += sorted(left, key=lambda token: -distance(token, chosen))[:wanted]
    return sorted(chosen)


@pytest.mark.parametrize("keep", [1, 2, 3, 7, 12, 15, 16])
def test_the_greedy_choice_spreads(keep):
    torch.manual_seed(keep)
    x = torch.randn(3, 16, 5, dtype=torch.float64)
    kept = kept_tokens(greedy(torch.zeros(3, 16, dtype=torch.float64), keep, x), keep, prefix=0)
    assert kept.tolist() == [spread(image, keep) for image in x]


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float32])
def test_near_tokens_stay_apart_under_autocast(kept):
    """Distances of tokens that are almost alike, against float64; bfloat16 has two digits for them."""
    torch.manual_seed(0)
    tokens = (1 + 0.1 * torch.randn(2, 1 + 64, 32)).to(kept)
    seen = Seen(tokens, None, None, None, None, 1, None, 8)
    x = F.normalize(tokens[:, 1:].double(), dim=-1)
    truth = 1 - ((x @ x.transpose(1, 2)).sum(dim=2) - 1) / 63
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = SCORES["distance"](seen)
        chosen = greedy(scores, 16, tokens[:, 1:])
    assert torch.allclose(scores.double(), truth, rtol=1e-3, atol=0)
    alone = kept_tokens(greedy(scores, 16, tokens[:, 1:].double()), 16, prefix=0)
    assert torch.equal(kept_tokens(chosen, 16, prefix=0), alone)


def test_a_dropped_token_joins_the_one_most_like_it_under_autocast():
    """Kept tokens that lie so close together that bfloat16 cannot tell which of them is nearest."""
    torch.manual_seed(0)
    tokens = 1 + 0.05 * torch.randn(2, 1 + 64, 32)
    index = torch.arange(17).expand(2, -1)
    likeness = F.normalize(tokens.double(), dim=-1) @ F.normalize(tokens[:, 1:17].double(), dim=-1).transpose(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, part = part_of("merge", tokens, index, torch.arange(64).expand(2, -1), prefix=1)
    assert torch.equal(part[:, 16:], likeness.argmax(dim=2)[:, 17:])
