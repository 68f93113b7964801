"""The model against its definition: parameter counts, attention by hand, and timm's habits."""

import pytest
import timm
import torch

import ptd_core  # registers hybrid_vit with timm
from ptd_core.model import HybridViT

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


def test_features_other_channels_and_pooling_by_timms_arguments():
    images = torch.randn(2, 3, 32, 32)
    features = timm.create_model("hybrid_vit", num_classes=0)
    assert features(images).shape == (2, 192)
    assert torch.equal(features(images), features.forward_head(features.forward_features(images), pre_logits=True))
    assert timm.create_model("hybrid_vit", in_chans=1)(images[:, :1]).shape == (2, 100)
    assert timm.create_model("hybrid_vit", global_pool="token")(images).shape == (2, 100)
    with pytest.raises(ValueError, match="global_pool must be 'token'; got 'avg'"):
        timm.create_model("hybrid_vit", global_pool="avg")
    with pytest.raises(TypeError, match="unexpected keyword argument 'patch_size'"):
        timm.create_model("hybrid_vit", patch_size=4)


@pytest.mark.parametrize("indices", [None, 2, [0, 2]])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("output_fmt", ["NCHW", "NLC"])
@pytest.mark.parametrize("prefix", [False, True])
def test_forward_intermediates_as_timms(indices, norm, output_fmt, prefix):
    """timm's own method, run on a timm model that has this one's blocks and embedding in place of its own."""
    ours = small().eval()
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=2, embed_dim=32, depth=3, num_heads=4)
    theirs.blocks, theirs.norm, theirs._pos_embed = ours.blocks, ours.norm, lambda x: ours.embed(images)
    images = torch.randn(2, 3, 16, 16)
    options = {"indices": indices, "norm": norm, "output_fmt": output_fmt, "return_prefix_tokens": prefix}
    final, features = ours.forward_intermediates(images, **options)
    expected_final, expected = theirs.eval().forward_intermediates(images, **options)
    assert torch.equal(final, expected_final) and len(features) == len(expected)
    for mine, timms in zip(features, expected):
        for one, two in zip(mine, timms) if prefix else [(mine, timms)]:
            assert one.shape == two.shape and torch.equal(one, two)
    only = ours.forward_intermediates(images, intermediates_only=True, stop_early=True, **options)
    assert len(only) == len(features)


def test_features_of_another_image_size_have_its_grid():
    images = torch.randn(2, 3, 24, 24)
    _, (feature,) = small().eval().forward_intermediates(images, indices=1)
    assert feature.shape == (2, 32, 12, 12)


def test_it_is_built_on_the_meta_device():
    with torch.device("meta"):
        model = HybridViT(drop_path_rate=0.1)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model(torch.randn(2, 3, 32, 32, device="meta")).shape == (2, 100)


def test_the_packages_front_names_the_heart():
    assert set(ptd_core.__all__) == {
        "DropSchedule", "HybridViT", "Recipe", "Stages", "TokenDrop", "TokenDropViT", "Trainer", "execute",
        "load_model",
    }  # fmt: skip
    assert all(hasattr(ptd_core, name) for name in ptd_core.__all__)


@pytest.mark.parametrize("options", [{"img_size": 17}, {"embed_dim": 30}, {"stem_stride": 3}, {"attention": "flash"}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        small(**options)


def test_drop_path_rises_linearly():
    model = small(drop_path_rate=0.1, depth=5)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])


@pytest.mark.parametrize(("height", "width"), [(17, 17), (18, 16), (15, 15)])
def test_images_that_the_stem_cannot_cut_are_refused(height, width):
    with pytest.raises(ValueError, match=f"square, their side a multiple of 4 pixels; got {height} x {width}"):
        small(stem_stride=4)(torch.zeros(1, 3, height, width))
