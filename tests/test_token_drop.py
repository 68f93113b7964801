"""TokenDropViT against its definition, attention for all tokens and then a gather, for every ViT that it takes."""

import pytest
import timm
import torch
import torch.nn.functional as F
from definition import assert_same_with_gradients, normed
from test_model import small

from ptd_core.evaluation.attention_maps import attention_maps
from ptd_core.saliency import gather_tokens
from ptd_core.token_drop import TokenDrop, TokenDropViT
from ptd_core.tokens import vit_parts
from ptd_core.tokens.vit_parts import class_attention_row, embed

TIMM_SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 4, "num_classes": 7}
VITS = {
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"reg_tokens": 4}),
    "layer scale and norms of queries and keys": ("vit_tiny_patch16_224", {"init_values": 0.3, "qk_norm": True}),
    "average pooling beside a class token": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": True}),
}


def timm_vit(kind: str, fused: bool = True):
    """A small timm ViT of random weights, layer scales and biases included, in float64."""
    name, options = VITS[kind]
    torch.manual_seed(0)
    vit = timm.create_model(name, **{**TIMM_SMALL, **options}).double()
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    return vit


def full_attention_then_gather(vit, images, kept_in):
    """Token drop as the method describes it, from the weights alone: every query, explicit T x T attention, scores
    from the mean over heads, sorting, gather; none of the ViT's own attention code. kept_in: {block: kept tokens}."""

    identity = torch.nn.Identity()
    x, prefix = embed(vit, images), vit.num_prefix_tokens
    for number, block in enumerate(vit.blocks):
        y, attention = normed(block.norm1, x), block.attn
        heads = attention.num_heads
        q, k, v = F.linear(y, attention.qkv.weight, attention.qkv.bias).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        q, k = normed(getattr(attention, "q_norm", identity), q), normed(getattr(attention, "k_norm", identity), k)
        weights = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5, dim=-1)
        out = torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2)
        out = F.linear(out, attention.proj.weight, attention.proj.bias)
        if number in kept_in:
            scores = weights[:, :, 0, prefix:].mean(1)
            best = scores.argsort(dim=1, descending=True)[:, : kept_in[number]] + prefix
            index = torch.cat([torch.arange(prefix).expand(len(x), -1), best], dim=1)
            x, out = gather_tokens(x, index), gather_tokens(out, index)
        for name, part in (("ls1", out), ("ls2", None)):
            part = block.mlp(normed(block.norm2, x)) if part is None else part
            x = x + part * getattr(getattr(block, name, None), "gamma", 1.0)
    return vit.forward_head(vit.norm(x))


def assert_equal_with_gradients(vit, drop, keep, images):
    """TokenDropViT's outputs and gradients are those of the definition."""
    network, truth = TokenDropViT(vit, drop), dict(zip(drop.blocks, keep))
    ours, theirs = network(images, keep), full_attention_then_gather(vit, images, truth)
    if isinstance(ours, tuple):  # a distilled model in training gives both of its heads
        ours, theirs = torch.cat(ours, dim=1), torch.cat(theirs, dim=1)
    assert_same_with_gradients(vit, ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("keep", [1, 20, 41, 63, 64])
def test_dropping_equals_full_attention_then_gather(kernel, block, keep):
    vit = small(attention=kernel).double().train()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    assert_equal_with_gradients(vit, TokenDrop((block,)), (keep,), images)


@pytest.mark.parametrize("kind", VITS)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("blocks", "keep"), [((0,), (30,)), ((2,), (1,)), ((0, 2), (40, 17)), ((1, 2, 3), (50, 50, 3))]
)
def test_timm_models_too(kind, fused, blocks, keep):
    vit = timm_vit(kind, fused).train()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert_equal_with_gradients(vit, TokenDrop(blocks), keep, images)


def test_no_number_is_not_the_same_as_no_keep():
    with pytest.raises(ValueError, match=r"one number for each of the blocks \(1,\); got \(\)"):
        TokenDropViT(small(), TokenDrop((1,)))(torch.zeros(1, 3, 16, 16), ())


def test_a_vit_that_has_dropped_patches_before_is_refused():
    """Whose places in the image nobody knows any more."""
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=3, patch_drop_rate=0.5)
    with pytest.raises(ValueError, match=r"its patch_drop has dropped some before.*patch_drop_rate=0"):
        TokenDropViT(vit)


@pytest.mark.parametrize("kind", ["hybrid", *VITS])
def test_without_keep_it_is_the_vit_itself(kind):
    vit = small().double() if kind == "hybrid" else timm_vit(kind)
    images = torch.randn(2, 3, 16 if kind == "hybrid" else 32, 16 if kind == "hybrid" else 32, dtype=torch.float64)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    network = TokenDropViT(vit).eval()
    assert torch.equal(network(images), vit(images))
    assert torch.allclose(network(images, (64,)), vit(images), rtol=1e-12)  # all tokens kept
    assert not torch.allclose(network(images, (5,)), vit(images))  # obeyed in evaluation as well
    assert network.vit is vit and vit.state_dict().keys() == before.keys()


def test_only_kept_tokens_come_out():
    network = TokenDropViT(small(), TokenDrop((0, 2)))
    images = torch.randn(2, 3, 16, 16)
    for mode in (network.train(), network.eval()):
        assert mode.forward_features(images, (10, 4)).shape == (2, 5, 32)


def test_kept_tokens_are_those_the_class_token_attends_to_most():
    vit, images = small().eval(), torch.randn(4, 3, 16, 16)
    scores = attention_maps(vit, images, 1).mean(1).flatten(1)
    _, places = TokenDropViT(vit, TokenDrop((1,))).run_blocks(images, (9,))
    for image in range(4):
        assert places[image].tolist() == sorted(sorted(range(64), key=lambda token: -scores[image, token].item())[:9])


def test_class_attention_rows_sum_to_one():
    rows = class_attention_row(small(), torch.randn(2, 3, 16, 16), block=2)
    assert rows.shape == (2, 4, 65)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 4))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
def test_fused_and_explicit_attention_agree(dtype, tolerance):
    fused, explicit = (TokenDropViT(small(attention=kernel)).train() for kernel in ("fused", "explicit"))
    images = torch.randn(4, 3, 16, 16)
    # Selection in bf16 can flip near-ties between kernels that round differently, so all tokens there.
    keep = (30,) if dtype == torch.float32 else None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours, other = fused(images, keep), explicit(images, keep)
    torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance)
    for out in (ours, other):
        out.float().sum().backward()
    for one, two in zip(fused.parameters(), explicit.parameters()):
        assert (one.grad - two.grad).norm() <= tolerance * (1e-3 + two.grad.norm())


def test_dropping_in_bf16_is_close_to_float64_for_the_same_kept_tokens(monkeypatch):
    index = torch.cat([torch.zeros(3, 1, dtype=torch.long), torch.arange(1, 31).expand(3, -1)], dim=1)
    monkeypatch.setattr("ptd_core.token_drop.kept_tokens", lambda scores, keep, prefix: index)
    network, images = TokenDropViT(small()).train(), torch.randn(3, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(images, (30,))
    high = TokenDropViT(small().double()).train()(images.double(), (30,))
    assert (low.double() - high).norm() / high.norm() < 3e-2


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("swin_tiny_patch4_window7_224", {}, "its windows or relative positions need a whole grid"),
        ("vit_base_patch16_gap_224", {}, "no class token"),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, "no class token"),
        ("resnet18", {}, "no plain sequence of tokens"),
        ("vit_relpos_small_patch16_224", {}, "relative positions need a whole grid"),
        ("vit_small_patch16_18x2_224", {}, "ParallelThingsBlock is no plain pre-norm block"),
    ],
)
def test_what_cannot_drop_tokens_is_refused_with_the_reason_and_what_works(name, options, reason):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    with pytest.raises(ValueError, match=reason) as refusal:
        TokenDropViT(model)
    assert "what works: HybridViT" in str(refusal.value) and "deit_tiny_patch16_224" in str(refusal.value)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((0, 1), "from 1 to the 64 patch tokens; got 0"),
        ((65, 1), "from 1 to the 64 patch tokens; got 65"),
        ((10, 11), "from 1 to the 10 patch tokens; got 11"),
        ((10,), r"one number for each of the blocks \(0, 2\); got \(10,\)"),
        (10, "keep must be a tuple"),
    ],
)
def test_impossible_keep_is_refused(keep, message):
    with pytest.raises(ValueError, match=message):
        TokenDropViT(small(), TokenDrop((0, 2)))(torch.randn(1, 3, 16, 16), keep)


def test_a_block_that_the_vit_lacks_is_refused():
    with pytest.raises(ValueError, match=r"blocks = \(3,\): this ViT has the blocks 0 to 2"):
        TokenDropViT(small(), TokenDrop((3,)))


def test_gradient_checkpointing_of_the_vit_is_kept(monkeypatch):
    """The same outputs and gradients, with each block run through checkpoint."""
    images, calls = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    recorded = vit_parts.checkpoint
    monkeypatch.setattr(vit_parts, "checkpoint", lambda *a, **k: calls.append(a) or recorded(*a, **k))
    results = []
    for checkpointing in (False, True):
        vit = timm_vit("registers").train()
        vit.set_grad_checkpointing(checkpointing)
        logits = TokenDropViT(vit, TokenDrop((0, 2)))(images, (40, 17))
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in vit.parameters() if p.grad is not None)])
    assert len(calls) == 4 and all(torch.equal(one, two) for one, two in zip(*results))


def test_a_wrapped_projection_is_refused():
    """It would be run by its weight alone, and what wraps it ignored."""
    vit = small()
    vit.blocks[1].attn.qkv = torch.nn.utils.parametrizations.weight_norm(vit.blocks[1].attn.qkv)
    with pytest.raises(ValueError, match="merge an adapter into it first"):
        TokenDropViT(vit)


def test_maps_are_refused_where_there_is_no_class_token_or_no_square():
    vit = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **TIMM_SMALL)
    with pytest.raises(ValueError, match="no class token"):
        attention_maps(vit, torch.randn(1, 3, 32, 32), 0)
    with pytest.raises(ValueError, match="images must be square"):
        attention_maps(small(), torch.randn(1, 3, 16, 32), 0)


def test_evaluation_leaves_frozen_parts_frozen():
    vit = small().train()
    vit.stem.eval()
    attention_maps(vit, torch.randn(1, 3, 16, 16), 0)
    assert vit.training and not vit.stem.training and vit.blocks.training
