"""`timm.create_model("hybrid_vit")`, once `ptd_core` is imported."""

from timm.models import register_model

from ptd_core.model import HybridViT


@register_model
def hybrid_vit(pretrained: bool = False, **kwargs) -> HybridViT:
    """A HybridViT by its sizes. There are no published weights: raises ValueError if asked for them."""
    if pretrained:
        raise ValueError("hybrid_vit has no pretrained weights; use pretrained=False")
    for timm_only in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(timm_only, None)
    return HybridViT(**kwargs)
