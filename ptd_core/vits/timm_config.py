"""timm's vision transformers by name, as descriptions that answer what `ViTConfig` answers for HybridViT."""

import functools
import inspect
from dataclasses import dataclass

import timm
import torch
from timm.models import vision_transformer
from torch import Tensor, nn

from ptd_core.errors import did_you_mean
from ptd_core.tokens import vit_parts
from ptd_core.tokens.grid import TokenGrid

Value = int | float | bool | str

# Arguments of timm's VisionTransformer that another setting gives, and which.
_SET_BY = {
    "img_size": "image_size", "num_classes": "the dataset", "in_chans": "the dataset", "drop_rate": "dropout",
    "pos_drop_rate": "dropout", "proj_drop_rate": "dropout", "drop_path_rate": "drop_path",
    "patch_drop_rate": "drop_score = random", "dynamic_img_size": "size_stages", "device": "device",
    "dtype": "precision",
}  # fmt: skip
_KNOWN = tuple(inspect.signature(vision_transformer.VisionTransformer).parameters)


@dataclass(frozen=True)
class TimmConfig(TokenGrid):
    """A timm model by its name, with arguments of its own as (name, value) pairs.

    img_size: in pixels. drop_rate: of dropout after positions, attention projection and in the MLP, and before the
    head. drop_path_rate: of the last block, rising linearly from 0. any_size: whether it takes images of other sides,
    its positions interpolated.
    Raises ValueError for a name that timm does not have, a model whose blocks cannot be run in parts, unknown
    arguments, and what timm cannot build. No weights are made for that.
    """

    name: str
    arguments: tuple[tuple[str, Value], ...] = ()
    img_size: int = 224
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    any_size: bool = False

    in_chans = 3

    def __post_init__(self) -> None:
        _refuse_unfit(self.name)
        for name, _ in self.arguments:
            if name in _SET_BY:
                raise ValueError(f"{name} is set by {_SET_BY[name]}")
            if name not in _KNOWN:
                hint = did_you_mean(name, _KNOWN) or f"known: {', '.join(n for n in _KNOWN if n not in _SET_BY)}"
                raise ValueError(f"{self.name} has no argument {name}; {hint}")
        _skeleton(self)

    def build(self, num_classes: int, attention: str = "fused") -> nn.Module:
        """The model, its weights drawn from torch's generator. attention: "fused" or "explicit"."""
        vit = timm.create_model(
            self.name,
            pretrained=False,
            num_classes=num_classes,
            in_chans=self.in_chans,
            img_size=self.img_size,
            dynamic_img_size=self.any_size,
            drop_rate=self.drop_rate,
            pos_drop_rate=self.drop_rate,
            proj_drop_rate=self.drop_rate,
            drop_path_rate=self.drop_path_rate,
            **dict(self.arguments),
        )
        for module in vit.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = attention == "fused"
        return vit

    def arguments_of_model(self) -> dict[str, Value]:
        """What `timm.create_model` needs beside the number of classes, without rates of dropout."""
        return {"img_size": self.img_size, **dict(self.arguments)}

    def check(self, drop) -> None:
        """Raises ValueError, with the reason, for a policy of token drop by which this ViT cannot be run."""
        with torch.device("meta"):
            drop.network(self.skeleton, self.skeleton)

    def adapted(self, weights: dict[str, Tensor], vit: nn.Module) -> dict[str, Tensor]:
        """A state dict of other image or patch sizes, or of the model's first authors, as the model takes it: timm's
        own filter of checkpoints."""
        return vision_transformer.checkpoint_filter_fn(weights, vit, adapt_layer_scale=True)

    @property
    def skeleton(self) -> nn.Module:
        """The model on the meta device, without weights; one for all that ask."""
        return _skeleton(self)

    @property
    def depth(self) -> int:
        return len(self.skeleton.blocks)

    @property
    def embed_dim(self) -> int:
        return self.skeleton.embed_dim

    @property
    def num_heads(self) -> int:
        return self.skeleton.blocks[0].attn.num_heads

    @property
    def prefix_tokens(self) -> int:
        """Tokens before those of patches: class, distillation and register tokens."""
        return self.skeleton.num_prefix_tokens

    @property
    def stride(self) -> int:
        """Image pixels per token side."""
        return self.skeleton.patch_embed.feat_ratio()


@functools.lru_cache(maxsize=64)
def _skeleton(config: TimmConfig) -> nn.Module:
    try:
        with torch.device("meta"):
            vit = config.build(num_classes=1)
    except Exception as error:  # whatever some model makes of some values
        reason = str(error).strip() or type(error).__name__
        raise ValueError(f"timm cannot build {config.name} with these values ({reason})") from None
    vit_parts.refuse_unfit(vit)
    return vit


@functools.cache
def _refuse_unfit(name: str) -> None:
    """Raises ValueError if timm has no model of that name, or none that can be run in parts."""
    if not timm.is_model(name):
        hint = did_you_mean(name.partition(".")[0], timm.list_models())
        raise ValueError(f"timm {timm.__version__} has no model {name}; {hint or 'see timm.list_models()'}")
    try:
        with torch.device("meta"):
            vit = timm.create_model(name, pretrained=False)
    except Exception as error:  # some other family's
        raise ValueError(f"timm cannot build {name} without its weights ({error})") from None
    vit_parts.refuse_unfit(vit)
