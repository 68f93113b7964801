"""Scores and kept sets against brute force over heads and tokens."""

import pytest
import torch

from ptd_core.saliency import class_attention, gather_tokens, kept_tokens, patch_scores


def test_scores_are_the_mean_over_heads_of_the_class_tokens_attention_row():
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(2, 3, 5, 4, dtype=torch.float64)
    scores = patch_scores(class_attention(query[:, :, :1], key))
    for image in range(2):
        rows = []
        for head in range(3):
            logits = [float(query[image, head, 0] @ key[image, head, token]) / 4**0.5 for token in range(5)]
            weights = torch.tensor(logits, dtype=torch.float64).exp()
            rows.append(weights / weights.sum())
        expected = sum(rows)[1:] / 3
        torch.testing.assert_close(scores[image], expected, rtol=1e-12, atol=0)


def test_scores_carry_no_gradient():
    query = torch.randn(1, 2, 1, 4, requires_grad=True)
    assert not patch_scores(class_attention(query, torch.randn(1, 2, 6, 4))).requires_grad


@pytest.mark.parametrize("keep", [1, 2, 7, 15, 16])
def test_kept_set_is_the_class_token_and_the_highest_scores(keep):
    scores = torch.rand(8, 16, generator=torch.Generator().manual_seed(keep))
    index = kept_tokens(scores, keep)
    for image in range(8):
        best = sorted(range(16), key=lambda token: -scores[image, token].item())[:keep]
        assert index[image].tolist() == [0, *sorted(token + 1 for token in best)]


@pytest.mark.parametrize("keep", [0, -1, 17])
def test_impossible_keep_is_refused(keep):
    with pytest.raises(ValueError, match=f"from 1 to the 16 patch tokens; got {keep}"):
        kept_tokens(torch.rand(1, 16), keep)


def test_gather_takes_the_tokens_at_the_index():
    x = torch.randn(2, 6, 3)
    index = torch.tensor([[0, 2, 5], [0, 1, 4]])
    assert torch.equal(gather_tokens(x, index), torch.stack([x[0, [0, 2, 5]], x[1, [0, 1, 4]]]))


def test_attention_is_told_apart_in_bfloat16_too():
    """On the CPU autocast keeps softmax in bfloat16, in which near ones are equal and any of them would be kept."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, n, 16, generator=generator) * 0.3 for n in (1, 257))
    with torch.autocast("cpu", torch.bfloat16):
        scores = patch_scores(class_attention(query, key))
        logits = query * 16**-0.5 @ key.transpose(-2, -1)
    assert scores.dtype == torch.float32 and logits.dtype == torch.bfloat16
    expected = logits.double().softmax(-1).mean(dim=1)[:, 0, 1:]
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=0)
    assert all(len(row.unique()) > 240 for row in scores)
