"""The model against its definition: parameter counts, token drop as full attention then gather, evaluation."""

import pytest
import timm
import torch
import torch.nn.functional as F

import ptd_core.model  # noqa: F401  registers hybrid_vit with timm
from ptd_core.model import HybridViT
from ptd_core.saliency import gather_tokens

SMALL = {
    "num_classes": 7,
    "img_size": 16,
    "stem_width": 8,
    "stem_stride": 2,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 4,
}


def small(**options) -> HybridViT:
    torch.manual_seed(0)
    return HybridViT(**{**SMALL, **options})


def full_attention_then_gather(model: HybridViT, images, keep):
    """The drop branch as the method describes it, from the weights alone: every query, explicit T x T attention,
    scores from the mean over heads, sorting, gather; none of the model's own attention code."""
    x = model.tokens(images)
    for number, block in enumerate(model.blocks):
        y = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias, block.norm1.eps)
        attention = block.attn
        heads = attention.num_heads
        q, k, v = F.linear(y, attention.qkv.weight, attention.qkv.bias).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5, dim=-1)
        out = F.linear(
            torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2), attention.proj.weight, attention.proj.bias
        )
        if number == model.drop_block and keep is not None:
            scores = weights[:, :, 0, 1:].mean(1)
            best = scores.argsort(dim=1, descending=True)[:, :keep] + 1
            index = torch.cat([torch.zeros_like(best[:, :1]), best], dim=1)
            x, out = gather_tokens(x, index), gather_tokens(out, index)
        x = x + out
        x = x + block.mlp(F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, block.norm2.eps))
    return model.head(model.norm(x)[:, 0])


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
@pytest.mark.parametrize("drop_block", [0, 1, 2])
@pytest.mark.parametrize("keep", [1, 20, 41, 63, None])
def test_drop_branch_equals_full_attention_then_gather(kernel, drop_block, keep):
    model = small(drop_block=drop_block, attention=kernel).double().train()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    weights = torch.randn(3, 7, dtype=torch.float64)  # a loss that tells all logits apart
    gradients = []
    for logits in (model(images, keep=keep), full_attention_then_gather(model, images, keep)):
        model.zero_grad()
        (logits * weights).sum().backward()
        gradients.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, truth in zip(*gradients):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
def test_fused_and_explicit_attention_agree(dtype, tolerance):
    fused, explicit = small(attention="fused").train(), small(attention="explicit").train()
    images = torch.randn(4, 3, 16, 16)
    # Selection in bf16 can flip near-ties between kernels that round differently, so all tokens there.
    keep = 30 if dtype == torch.float32 else None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours, other = fused(images, keep=keep), explicit(images, keep=keep)
    torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance)
    for out in (ours, other):
        out.float().sum().backward()
    for one, two in zip(fused.parameters(), explicit.parameters()):
        assert (one.grad - two.grad).norm() <= tolerance * (1e-3 + two.grad.norm())


def test_drop_branch_in_bf16_is_close_to_float64_for_the_same_kept_tokens(monkeypatch):
    index = torch.cat([torch.zeros(3, 1, dtype=torch.long), torch.arange(1, 31).expand(3, -1)], dim=1)
    monkeypatch.setattr("ptd_core.model.kept_tokens", lambda scores, keep: index)
    model, images = small().train(), torch.randn(3, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(images, keep=30)
    high = small().double().train()(images.double(), keep=30)
    assert (low.double() - high).norm() / high.norm() < 3e-2


def test_evaluation_equals_the_baseline_bit_for_bit():
    ptd, baseline = small(drop_block=1).eval(), small().eval()
    baseline.load_state_dict(ptd.state_dict())
    images = torch.randn(5, 3, 16, 16)
    for keep in (None, 1, 30, 64):
        assert torch.equal(ptd(images, keep=keep), baseline(images))


def test_only_kept_tokens_leave_the_drop_block_and_eval_keeps_all():
    model = small()
    images = torch.randn(2, 3, 16, 16)
    assert model.train().forward_features(images, keep=10).shape == (2, 11, 32)
    assert model.eval().forward_features(images, keep=10).shape == (2, 65, 32)


def test_kept_tokens_are_those_the_class_token_attends_to_most():
    model = small(drop_block=1).train()
    images = torch.randn(4, 3, 16, 16)
    scores = model.class_attention(images, block=1).mean(dim=1)[:, 1:]
    x = model.blocks[0](model.tokens(images))
    _, index = model.blocks[1].attn(model.blocks[1].norm1(x), keep=9)
    for image in range(4):
        best = sorted(range(64), key=lambda token: -scores[image, token].item())[:9]
        assert set(index[image].tolist()) == {0, *(token + 1 for token in best)}


def test_class_attention_rows_sum_to_one():
    rows = small().class_attention(torch.randn(2, 3, 16, 16), block=2)
    assert rows.shape == (2, 4, 65)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 4))


def test_published_size_through_timm():
    def count(**options):
        return sum(parameter.numel() for parameter in timm.create_model("hybrid_vit", **options).parameters())

    assert count() == 3_035_812
    assert count(qkv_bias=False) == 3_032_356


def test_timm_habits():
    model = timm.create_model("hybrid_vit", num_classes=5, drop_rate=0.1, drop_path_rate=0.1)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    model.reset_classifier(0)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 192)
    with pytest.raises(ValueError, match="no pretrained weights"):
        timm.create_model("hybrid_vit", pretrained=True)


@pytest.mark.parametrize("options", [{"img_size": 17}, {"embed_dim": 30}, {"drop_block": 3}, {"attention": "flash"}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        small(**options)


def test_keep_out_of_range_is_refused():
    for keep in (0, 65):
        with pytest.raises(ValueError, match=f"from 1 to the 64 patch tokens; got {keep}"):
            small().train()(torch.randn(1, 3, 16, 16), keep=keep)


def test_drop_path_rises_linearly():
    model = small(drop_path_rate=0.1, depth=5)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
