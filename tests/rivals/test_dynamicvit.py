"""Masked training against gathered evaluation, the losses by hand, and who learns from what."""

import functools

import pytest
import timm
import torch
import torch.nn.functional as F
from test_model import small
from test_token_drop import timm_vit

from ptd_core.rivals import dynamicvit
from ptd_core.rivals.dynamicvit import DynamicViT, masked_block
from ptd_core.saliency import gather_tokens


def network(blocks=(1, 2)):
    torch.manual_seed(0)
    return DynamicViT(small().double(), blocks, small().double().eval()).double()


def images(count=3):
    return torch.randn(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
def test_the_mask_equals_the_gather(kernel):
    """What a block gives the tokens that are left does not depend on those that are not."""
    vit, x = small(attention=kernel).double().eval(), torch.randn(2, 65, 32, dtype=torch.float64)
    index = torch.stack([torch.arange(0, 65, 2), torch.arange(32, 65).clone()])
    index[1, 0] = 0
    mask = torch.zeros(2, 65, dtype=torch.float64).scatter(1, index, 1.0)
    masked = gather_tokens(masked_block(vit.blocks[1], x, mask), index)
    torch.testing.assert_close(masked, vit.blocks[1](gather_tokens(x, index)), rtol=1e-4, atol=1e-5)
    everything = masked_block(vit.blocks[1], x, torch.ones(2, 65, dtype=torch.float64))
    torch.testing.assert_close(everything, vit.blocks[1](x), rtol=1e-4, atol=1e-5)


def test_timm_models_too():
    vit, x = timm_vit("layer scale and norms of queries and keys").eval(), torch.randn(2, 65, 48, dtype=torch.float64)
    mask = torch.ones(2, 65, dtype=torch.float64)
    mask[:, 40:] = 0
    index = torch.arange(40).expand(2, -1)
    masked = gather_tokens(masked_block(vit.blocks[1], x, mask), index)
    torch.testing.assert_close(masked, vit.blocks[1](x[:, :40]), rtol=1e-3, atol=1e-3)


def test_evaluation_discards_what_the_predictors_find_least_probable():
    module = network().eval()
    logits = module(images(), (40, 9))
    for image, found in zip(images(), logits):
        x = module.vit.blocks[0](module.vit.embed(image.unsqueeze(0)))[0]
        for number, (predictor, kept) in enumerate(zip(module.predictors, (40, 9)), start=1):
            features = [predictor.embed(token) for token in x[1:]]
            mean = sum(feature[16:] for feature in features) / len(features)
            odds = [predictor.decide(torch.cat([f[:16], mean])).log_softmax(0)[0].item() for f in features]
            best = sorted(sorted(range(len(odds)), key=lambda token: -odds[token])[:kept])
            x = module.vit.blocks[number](x[[0, *(token + 1 for token in best)]].unsqueeze(0))[0]
        torch.testing.assert_close(found, module.vit.forward_head(module.vit.norm(x).unsqueeze(0))[0])


def test_the_losses_by_hand(monkeypatch):
    """With the draws fixed: tokens 0 to 31 stay from block 1 on, and 16 to 63 of these from block 2 on."""
    module = network().train()
    stays = [torch.arange(64) < 32, torch.arange(64) >= 16]
    draws = iter(stays)

    def drawn(log_probabilities, hard):
        kept = next(draws).to(log_probabilities).view(1, 64, 1).expand(3, -1, -1)
        return torch.cat([kept, 1 - kept], dim=-1)

    monkeypatch.setattr(F, "gumbel_softmax", drawn)
    logits, loss = module(images(), (40, 9))
    left = torch.ones(3, 65, dtype=torch.float64)
    x = module.vit.blocks[0](module.vit.embed(images()))
    for number, stay in enumerate(stays, start=1):
        left[:, 1:] *= stay
        x = masked_block(module.vit.blocks[number], x, left)
    tokens = module.vit.norm(x)
    torch.testing.assert_close(logits, module.vit.forward_head(tokens))
    ratio = ((32 / 64 - 40 / 64) ** 2 + (16 / 64 - 9 / 64) ** 2) / 2
    (teacher,) = module._teacher
    theirs = teacher.forward_features(images())
    p, q = teacher.forward_head(theirs).softmax(-1), logits.softmax(-1)
    divergence = (p * (p / q).log()).sum() / 3
    distance = ((tokens - theirs)[:, 1:][:, 16:32] ** 2).mean()
    assert loss.item() == pytest.approx((2 * ratio + 0.5 * divergence + 0.5 * distance).item(), rel=1e-5)


def test_the_predictors_learn_from_the_answers_too():
    """Cross-entropy alone moves them, through the mask in attention; the teacher is never moved."""
    module = network().train()
    assert not any(name.startswith("_teacher") for name in module.state_dict())
    logits, _ = module(images(), (40, 9))
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    for predictor in module.predictors:
        assert all(parameter.grad.abs().sum() > 0 for parameter in predictor.parameters())
    assert all(parameter.grad is None for parameter in module._teacher[0].parameters())


def test_the_shares_are_learned(monkeypatch):
    """By the ratio loss alone both predictors come to leave as many tokens as they are told, fewer than at first."""
    for other in ("CLASS_WEIGHT", "TOKEN_WEIGHT"):
        monkeypatch.setattr(dynamicvit, other, 0.0)
    torch.manual_seed(0)
    module = DynamicViT(small(), (1, 2), small().eval()).train()
    optimizer = torch.optim.Adam(module.predictors.parameters(), lr=3e-3)
    data, drawn, real = images(16).float(), [], F.gumbel_softmax

    def recorded(log_probabilities, hard):
        drawn.append(real(log_probabilities, hard=hard))
        return drawn[-1]

    monkeypatch.setattr(F, "gumbel_softmax", recorded)
    for _ in range(60):
        optimizer.zero_grad()
        _, loss = module(data, (16, 8))
        loss.backward()
        optimizer.step()
    kept = torch.stack(drawn)[..., 0].detach()  # two predictors a step
    shares = [(first.mean().item(), (first * second).mean().item()) for first, second in zip(kept[::2], kept[1::2])]
    assert shares[0][0] > 0.4 and shares[0][1] > 0.2
    late = [sum(column) / 10 for column in zip(*shares[-10:])]
    assert late == pytest.approx([16 / 64, 8 / 64], abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"class_token": False, "global_pool": "avg"}, "has no class token, and DynamicViT"),
        ({"global_pool": "avg"}, "global_pool = 'avg': DynamicViT masks dropped tokens"),
        ({"global_pool": "map"}, "global_pool = 'map': DynamicViT masks dropped tokens"),
    ],
)
def test_a_head_that_would_see_dropped_tokens_in_training_is_refused(arguments, says):
    make = functools.partial(timm.create_model, "vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=3, **arguments)
    with pytest.raises(ValueError, match=says):
        DynamicViT(make(), (1,), make())


def test_attention_has_its_own_dropout():
    block = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=48, num_heads=3, attn_drop_rate=0.5).blocks[0]
    x, everything = torch.randn(2, 9, 48, generator=torch.Generator().manual_seed(0)), torch.ones(2, 9)
    block.train()
    first, second = (masked_block(block, x, everything) for _ in range(2))
    assert not torch.allclose(first, second)
    block.eval()
    assert torch.equal(masked_block(block, x, everything), masked_block(block, x, everything))


def test_an_image_of_which_chance_leaves_no_token_is_no_nan(monkeypatch):
    """Of few tokens every one may be drawn as dropped: the class token goes on alone, and gradients stay finite."""
    module = network().train()
    monkeypatch.setattr(F, "gumbel_softmax", lambda logits, hard: (logits * 0).exp() * torch.tensor([0.0, 1.0]))
    logits, loss = module(images(), (40, 9))
    (logits.sum() + loss).backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    alone = module.vit.forward_head(module.vit.norm(_class_token_alone(module)))
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)  # but for the epsilon of the softmax


def _class_token_alone(module):
    x = module.vit.blocks[0](module.vit.embed(images()))[:, :1]
    for block in module.vit.blocks[1:]:
        x = block(x)
    return x


def test_without_keep_it_is_the_vit_itself():
    module = network().eval()
    assert torch.equal(module(images()), module.vit(images()))
    with pytest.raises(ValueError, match=r"one number for each of the blocks \(1, 2\); got \(5,\)"):
        module(images(), (5,))
    with pytest.raises(ValueError, match="this ViT has the blocks 0 to 2"):
        DynamicViT(small(), (1, 3), small())
