"""`timm.create_model("hybrid_vit")`, once `ptd_core` is imported."""

from typing import Any

from timm.models import load_pretrained, register_model

from ptd_core.model import HybridViT


@register_model
def hybrid_vit(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs) -> HybridViT:
    """A HybridViT by its sizes; pretrained with the weights of a folder, timm's "local-dir:" or "hf-hub:" alone.

    There are no published weights: raises ValueError if asked for them.
    """
    config = pretrained_cfg if isinstance(pretrained_cfg, dict) else {}
    if pretrained and config.get("source") not in ("local-dir", "hf-hub"):
        raise ValueError("hybrid_vit has no pretrained weights; use pretrained=False")
    for timm_only in ("pretrained_cfg_overlay", "pretrained_model_args", "cache_dir"):
        kwargs.pop(timm_only, None)
    if "num_classes" in config:
        kwargs.setdefault("num_classes", config["num_classes"])
    vit = HybridViT(**kwargs)
    if config:
        vit.pretrained_cfg = vit.default_cfg = config
    if pretrained:
        load_pretrained(
            vit, config, num_classes=vit.num_classes, in_chans=vit.config.in_chans, filter_fn=vit.config.adapted
        )
    return vit
