"""Every parameter of a run: name, default, unit and bounds, written once.

Notebooks, YAML files and the command line all end here. Values are checked strictly, before any data is read;
a refusal names the parameter, what came and what is allowed.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticUndefined

from ptd_core import cost
from ptd_core.data.augment import Augmentation
from ptd_core.data.dataset import Dataset
from ptd_core.data.load import load
from ptd_core.data.mixing import Mixing
from ptd_core.data.resized_crop import FILTERS, ResizedCrop
from ptd_core.errors import RecipeError
from ptd_core.model import ViTConfig
from ptd_core.parameters import arguments, decimals, expanded, explain, fitted, read_parameters, stages, whole_numbers
from ptd_core.records.event_log import LOGS
from ptd_core.records.folders import NAME
from ptd_core.rivals.rival import NETWORKS, Rival
from ptd_core.saliency import SCORES
from ptd_core.schedule import DropSchedule
from ptd_core.step import Optimisation
from ptd_core.token_drop import ATTENDED, Keep, TokenDrop
from ptd_core.tokens.choices import CHOICES
from ptd_core.tokens.fates import FATES
from ptd_core.vits.timm_config import TimmConfig
from ptd_core.vits.weights import digest_of

_PLACE = {"place": True}  # says where a run reads, writes and computes; not what it computes

# Not in the settings of a run that has the default, which so stay those of runs from before there was such a parameter.
_LATER = {"later": True}

_HYBRID = ("stem_width", "stem_stride", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")  # of hybrid_vit

_RESIZED = ("crop_scale_min", "crop_ratio_min", "crop_interpolation")  # of crop resized

_LISTS = {  # settings that hold several values, and what reads them
    "drop_blocks": whole_numbers,
    "drop_shares": decimals,
    "drop_stages": stages,
    "size_stages": stages,
    "model_args": arguments,
}


def _setting(default, help, *, kind=None, place=False, **bounds):
    return Field(default, description=help, json_schema_extra=_PLACE if place else kind, **bounds)


class Recipe(BaseModel):
    """One run. The defaults train a small model with token drop on generated shapes, in minutes on a laptop.

    Raises RecipeError (never pydantic's own error) through `from_values` and `from_yaml`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    # run
    run: str = _setting(
        "",
        "name of the run's folder; empty: made from chapter, dataset and settings",
        place=True,
        pattern=rf"^({NAME.pattern})?$",
    )
    seed: int = _setting(0, "seed of initialisation, order, augmentation and dropout", ge=0, le=2**31 - 1)
    device: str = _setting(
        "auto",
        "auto, cpu, mps, cuda or cuda:N; auto takes CUDA, then MPS, then the CPU",
        place=True,
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$",
    )
    precision: Literal["auto", "fp32", "bf16"] = _setting(
        "auto", "auto, fp32 or bf16 (autocast); auto: bf16 where the card or the CPU multiplies it, else fp32"
    )
    attention: Literal["auto", "fused", "explicit"] = _setting(
        "auto", "auto, fused or explicit; auto: explicit for bf16 on the CPU, fused elsewhere"
    )
    compilation: Literal["auto", "off", "inductor", "cudagraphs"] = _setting(
        "auto",
        "auto, off, inductor or cudagraphs (torch.compile); auto: cudagraphs on cards with bf16",
        place=True,
    )
    checkpoint_activations: bool = _setting(
        False,
        "compute blocks' activations again in the backward pass: less memory, same result",
        place=True,
    )
    out_dir: str = _setting("", "folder that receives runs/; empty: the project's own", place=True)
    log: Literal[LOGS] = _setting(
        "none", "none, or tensorboard: every record as a point of event files in the run's folder", place=True
    )
    checkpoint_every: int = _setting(1, "epochs between checkpoints", place=True, ge=1, le=100_000)
    checkpoint_seconds: float = _setting(
        60.0, "seconds of training between checkpoints within an epoch; 0: none", place=True, ge=0, le=10**6
    )
    weights_every: int = _setting(
        0, "epochs between weights that are kept in files; 0: the first epoch's alone", place=True, ge=0, le=100_000
    )

    # data
    dataset: Literal["shapes", "cifar100", "cifar10", "folder", "parquet"] = _setting(
        "shapes", "shapes (generated), cifar100, cifar10, folder (class folders) or parquet (hub shards)"
    )
    data_dir: str = _setting("data", "where the dataset lies; shapes needs none", place=True, min_length=1)
    download: bool = _setting(True, "let torchvision download an absent CIFAR", place=True)
    label_column: str = _setting("", "of dataset parquet: column of labels; empty: the only one", kind=_LATER)
    images: Literal["resident", "mapped"] = _setting(
        "resident", "resident in memory, or mapped from a file of decoded images (folder and parquet)", place=True
    )
    cache_dir: str = _setting("", "folder for that file; empty: cache/ in the project", place=True)
    image_size: int = _setting(32, "image side in pixels; CIFAR has 32", ge=8, le=512)
    size_stages: str = _setting(
        "", "training image sides at shares of the run, as 24/28/32 at 60/20/20; empty: image_size"
    )
    subset: int = _setting(4000, "training images, class-balanced; 0: all", ge=0, le=10**9)
    test_subset: int = _setting(1000, "test images, class-balanced; 0: all", ge=0, le=10**9)

    # model
    model: str = _setting(
        "hybrid_vit",
        "hybrid_vit, or the name of a timm ViT, as timm.list_models() gives it",
        kind=_LATER,
        pattern=r"^[\w.]+$",
    )
    model_args: str = _setting(
        "",
        "arguments of the timm ViT, as patch_size:4, depth:6",
        kind=_LATER,
    )
    weights: str = _setting(
        "", "file of weights to begin with: .safetensors, .pt, .pth or .bin; empty: drawn by seed", kind=_LATER
    )
    stem_width: int = _setting(32, "channels after the first stem convolution, doubled by the second", ge=1, le=512)
    stem_stride: Literal[1, 2, 4, 8] = _setting(4, "image pixels per token side: 1, 2, 4 or 8")
    embed_dim: int = _setting(96, "embedding width", ge=1, le=4096)
    depth: int = _setting(4, "number of transformer blocks", ge=1, le=64)
    num_heads: int = _setting(3, "attention heads; must divide embed_dim", ge=1, le=64)
    mlp_ratio: float = _setting(4.0, "hidden width of the MLP over embed_dim", gt=0, le=16)
    qkv_bias: bool = _setting(True, "bias in the query, key and value projections")
    dropout: float = _setting(
        0.0, "dropout after positions, attention projection and in the MLP; also before a timm ViT's head", ge=0, lt=1
    )
    drop_path: float = _setting(0.0, "drop-path rate of the last block, rising linearly from 0", ge=0, lt=1)

    # token drop
    drop_method: Literal[("token_drop", *NETWORKS)] = _setting(
        "token_drop", "token_drop (by the settings below), tome, evo_vit (from drop_block on) or dynamicvit"
    )
    drop_init: float = _setting(0.0, "drop ratio before drop_start", ge=0, lt=1)
    drop_final: float = _setting(0.35, "drop ratio from drop_end on; 0 with drop_init 0 is the baseline", ge=0, lt=1)
    drop_start: int = _setting(2, "epoch at which the drop ratio begins to rise, counted from 0", ge=0, le=10**6)
    drop_end: int = _setting(8, "epoch from which it is drop_final", ge=0, le=10**6)
    drop_gamma: float = _setting(2.0, "exponent of the rise", gt=0, le=16)
    drop_hold: bool = _setting(True, "hold drop_final after drop_end; False: all tokens again")
    drop_block: int = _setting(0, "block that drops tokens, counted from 0", ge=0)
    drop_blocks: str = _setting("", "several such blocks, as 3, 6, 9; each drops of the tokens that reach it")
    drop_shares: str = _setting("", "for each of drop_blocks a factor of the drop ratio, as 1, 1.7, 2.2; empty: 1 each")
    drop_shape: Literal["polynomial", "cosine", "reversed", "steps", "flat", "cyclic"] = _setting(
        "polynomial",
        "polynomial, cosine, reversed (in time), steps, flat (from drop_start) or cyclic",
    )
    drop_stages: str = _setting("", "of drop_shape steps: kept shares at shares of the run, as .5/1 at 80/20")
    drop_cycle: int = _setting(0, "of drop_shape cyclic: epochs of a period", ge=0, le=10**6)
    drop_tail: int = _setting(0, "epochs at the end with all tokens, whatever the shape", ge=0, le=10**6)
    drop_multiple: int = _setting(1, "kept tokens are multiples of this", ge=1, le=10**6)
    drop_score: Literal[tuple(SCORES)] = _setting(
        "class_attention", "what makes a token worth keeping: a key of SCORES in ptd_core/saliency.py"
    )
    drop_score_block: int = _setting(
        -1, "of drop_score averaged_attention: block that it looks at; -1: the last", ge=-1
    )
    drop_choice: Literal[tuple(CHOICES)] = _setting(
        "top", "top scores, sample (in proportion to them) or greedy (spread over the features)"
    )
    drop_fate: Literal[FATES] = _setting(
        "discard",
        "discard, fuse (into one), merge (to the nearest), skip (the block), bypass (to drop_until)",
    )
    drop_attended: Literal[ATTENDED] = _setting(
        "all", "all or kept: what kept tokens attend to in that block; kept: tokens are dropped before it"
    )
    drop_until: int = _setting(-1, "of drop_fate bypass: block before which tokens are back; -1: the last", ge=-1)

    # augmentation
    crop: Literal["padded", "resized"] = _setting(
        "padded", "padded (zeros around, then a random crop) or resized (a random part of the image)", kind=_LATER
    )
    crop_scale_min: float = _setting(
        0.08, "of crop resized: smallest share of the image's area; the largest is 1", kind=_LATER, gt=0, le=1
    )
    crop_ratio_min: float = _setting(
        0.75, "of crop resized: smallest width over height; the largest is 1 over that", kind=_LATER, gt=0, le=1
    )
    crop_interpolation: Literal[tuple(FILTERS)] = _setting(
        "bicubic", "of crop resized: bicubic or bilinear, both antialiased", kind=_LATER
    )
    crop_padding: int = _setting(2, "of crop padded: zero padding in pixels", ge=0, le=64)
    flip: bool = _setting(True, "random horizontal flip")
    rand_ops: int = _setting(0, "RandAugment operations an image; 0: off", ge=0, le=14)
    rand_magnitude: int = _setting(7, "RandAugment magnitude, one of 31 bins", ge=0, le=30)
    erase: float = _setting(0.0, "probability of random erasing", ge=0, le=1)
    mixup_alpha: float = _setting(0.0, "Mixup: Beta(alpha, alpha); 0: off", ge=0, le=100)
    cutmix_alpha: float = _setting(0.0, "CutMix: Beta(alpha, alpha); 0: off", ge=0, le=100)
    cutmix_share: float = _setting(0.5, "share of batches that get CutMix where both are on", ge=0, le=1)

    # training
    epochs: int = _setting(10, "passes over the training images, or over epoch_images of them", ge=1, le=100_000)
    epoch_images: int = _setting(
        0, "training images an epoch, others each time until none is left; 0: all", kind=_LATER, ge=0, le=10**9
    )
    batch_size: int = _setting(64, "images a training step; an epoch omits its last, smaller batch", ge=1, le=10**6)
    accumulate_steps: int = _setting(
        1,
        "micro-batches of a batch, one by one, for memory; batch norm and dropout see each alone",
        kind=_LATER,
        ge=1,
        le=10**6,
    )
    eval_batch_size: int = _setting(256, "images an evaluation step", ge=1, le=10**6)
    eval_every: int = _setting(1, "epochs between evaluations; the last epoch always has one", ge=1, le=100_000)
    lr: float = _setting(1.5e-3, "peak learning rate of AdamW", gt=0, le=10)
    layer_decay: float = _setting(
        1.0,
        "learning rate of each block over that of the next, down from the head; 1: one for all",
        kind=_LATER,
        gt=0,
        le=1,
    )
    frozen_blocks: int = _setting(
        0,
        "first blocks not trained, nor stem, class token, positions; all: only the head is; 0: none",
        kind=_LATER,
        ge=0,
        le=64,
    )
    weight_decay: float = _setting(0.05, "decoupled weight decay, on every parameter", ge=0, le=10)
    warmup_epochs: int = _setting(1, "epochs of linear warm-up, before the cosine", ge=0, le=100_000)
    grad_clip: float = _setting(1.0, "largest gradient norm; 0: no clipping", ge=0, le=10**6)
    label_smoothing: float = _setting(0.03, "label smoothing", ge=0, lt=1)
    ema_decay: float = _setting(0.98, "decay of the weights' moving average; 0: off", ge=0, lt=1)

    _weights_digest: str = PrivateAttr("")  # of the file as it was when the recipe was made

    @field_validator("*", mode="before")
    @classmethod
    def _as_its_type(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name in _LISTS and type(value) in (int, float):
            return str(value)
        return fitted(value, cls.model_fields[info.field_name].annotation)

    @field_validator("out_dir", "data_dir", "cache_dir", "weights")
    @classmethod
    def _whole_path(cls, path: str) -> str:
        return expanded(path)

    @field_validator(*_LISTS)
    @classmethod
    def _readable(cls, text: str, info: ValidationInfo) -> str:
        _LISTS[info.field_name](text)
        return text.replace(":", "=")  # one spelling of a model's arguments; no other list has colons

    @field_validator("weights")
    @classmethod
    def _there(cls, weights: str) -> str:
        if weights:
            digest_of(weights)
        return weights

    # what the values say together

    @model_validator(mode="after")
    def _consistent(self):
        def refuse(names, why):
            values = ", ".join(f"{name} = {getattr(self, name)!r}" for name in names.split())
            raise ValueError(f"{values}: {why}")

        if self.dataset.startswith("cifar") and self.image_size != 32:
            refuse("dataset image_size", "CIFAR images are 32 pixels wide")
        if self.images == "mapped" and self.dataset not in ("folder", "parquet"):
            refuse("dataset images", "images of folder and parquet can be mapped; the others fit into memory")
        if self.label_column and self.dataset != "parquet":
            refuse("dataset label_column", "only parquet has columns to choose from")
        self._consistent_model(refuse)
        for name in _RESIZED:
            if self.crop != "resized" and getattr(self, name) != type(self).model_fields[name].default:
                refuse(f"crop {name}", f"{name} is of crop = 'resized' alone")
        if self.crop == "resized" and self.crop_padding not in (0, type(self).model_fields["crop_padding"].default):
            refuse("crop crop_padding", "a resized crop has no padding")
        if self.drop_end < self.drop_start:
            refuse("drop_start drop_end", "drop_end must not come before drop_start")
        self._consistent_drop(refuse)
        if self.mixing and self.batch_size % 2:
            refuse("batch_size mixup_alpha cutmix_alpha", "mixing pairs the images of a batch, which must be even")
        if self.batch_size % self.accumulate_steps:
            refuse("batch_size accumulate_steps", "the micro-batches of a batch must be equally large")
        if self.subset and self.subset < self.batch_size:
            refuse("subset batch_size", "the training images do not fill one batch")
        if self.epoch_images and self.epoch_images < self.batch_size:
            refuse("epoch_images batch_size", "the images of an epoch do not fill one batch")
        if self.subset and self.epoch_images > self.subset:
            refuse("epoch_images subset", "an epoch has no image twice")
        if self.weights:
            self._weights_digest = digest_of(self.weights)
        return self

    def _consistent_model(self, refuse: Callable[[str, str], NoReturn]) -> None:
        if self.model == "hybrid_vit":
            if self.model_args:
                refuse("model model_args", "are arguments of a timm model; hybrid_vit has settings of its own")
            if self.image_size % self.stem_stride:
                refuse("image_size stem_stride", "image_size must be a multiple of stem_stride")
            if self.embed_dim % self.num_heads:
                refuse("embed_dim num_heads", "embed_dim must be a multiple of num_heads")
            if int(self.mlp_ratio * self.embed_dim) < 1:
                refuse("mlp_ratio embed_dim", "the MLP would have no hidden unit")
            return
        for name in _HYBRID:
            if getattr(self, name) != type(self).model_fields[name].default:
                refuse(f"model {name}", f"{name} is of hybrid_vit alone; a timm model takes its own from model_args")
        try:
            stride = self.vit.stride
        except ValueError as error:
            refuse("model model_args" if self.model_args else "model", str(error))
        if self.image_size % stride:
            refuse("image_size model", f"image_size must be a multiple of the {stride} pixels of a patch")

    def _consistent_drop(self, refuse: Callable[[str, str], NoReturn]) -> None:
        """What the settings of token drop and of image sizes say together."""
        if self.drop_block and self.drop_blocks:
            refuse("drop_block drop_blocks", "name the dropping blocks in one of them")
        name = "drop_blocks" if self.drop_blocks else "drop_block"
        for shape, needed in (("steps", "drop_stages"), ("cyclic", "drop_cycle")):
            if bool(getattr(self, needed)) != (self.drop_shape == shape):
                refuse(f"drop_shape {needed}", f"{shape} needs {needed}, and nothing else does")
        try:
            drop, schedule = self.token_drop, self.schedule
        except ValueError as error:  # which begins with the field's name
            raise ValueError(f"drop_{error}") from None
        vit, size, depth = self.vit, "stem_stride", "depth"  # and the settings that they come from
        if self.model != "hybrid_vit":
            size = depth = "model model_args" if self.model_args else "model"
        if self.frozen_blocks > vit.depth:
            refuse(f"frozen_blocks {depth}", f"frozen_blocks must be from 0 to {vit.depth}")
        if drop.blocks[-1] >= vit.depth:
            refuse(f"{name} {depth}", f"{name} must be from 0 to {vit.depth - 1}")
        if self.drop_method != "token_drop":
            for other in ("drop_score", "drop_choice", "drop_fate", "drop_attended", "drop_until"):
                if getattr(self, other) != type(self).model_fields[other].default:
                    refuse(f"drop_method {other}", f"{self.drop_method} has its own")
            if self.drop_method == "dynamicvit" and not self.ema_decay:
                refuse("drop_method ema_decay", "its teacher is the moving average of the weights, and there is none")
        elif drop.until is not None and drop.until > vit.depth:
            refuse(f"drop_until {depth}", f"the last block is {vit.depth - 1}; {vit.depth} is the end")
        shares = decimals(self.drop_shares)
        if shares and len(shares) != len(drop.blocks):
            refuse(f"{name} drop_shares", "give one factor for each dropping block")
        sizes = stages(self.size_stages)
        sides = [int(side) for side in sizes.values] if sizes else [self.image_size]
        for side in sizes.values if sizes else ():
            if side != int(side):
                refuse("size_stages", f"{side} must be a whole number of pixels")
        for side in sides:
            if side % vit.stride or not 8 <= side <= self.image_size:
                multiple = "stem_stride" if size == "stem_stride" else f"the {vit.stride} pixels of a patch"
                refuse(f"size_stages image_size {size}", f"{side} must be a multiple of {multiple} up to image_size")
        tokens = self.grid_at(min(sides)) ** 2
        steps = schedule.stages.values if schedule.stages else ()
        ratios = [("drop_init", self.drop_init), ("drop_final", self.drop_final)]
        for setting, ratio in [*ratios, *(("drop_stages", 1 - kept) for kept in steps)]:
            if DropSchedule.tokens_at_ratio(ratio, tokens) < 1:
                refuse(f"{setting} image_size {size}", f"of {tokens} patch tokens less than one would be kept")
        if shares or self.drop_method != "token_drop":
            most = max(schedule.ratio(epoch) for epoch in range(self.epochs))
            if shares and max(shares) * most >= 1:
                refuse("drop_shares drop_final", "a factor times the drop ratio must stay below 1")
            for side in sides:
                try:
                    if keep := self.keep_at(most, side):
                        drop.reaching(keep, self.grid_at(side) ** 2)
                except ValueError as error:
                    refuse(f"drop_method drop_final {depth}", str(error))
        try:
            vit.check(drop)
        except ValueError as error:
            refuse("model drop_method drop_score drop_fate", str(error))
        if self.drop_score == "averaged_attention" and not self.ema_decay:
            refuse("drop_score ema_decay", "there is no moving average of the weights")
        if self.drop_score_block >= vit.depth:
            refuse(f"drop_score_block {depth}", f"drop_score_block must be from 0 to {vit.depth - 1}, or -1")
        if self.drop_score_block != -1 and self.drop_score != "averaged_attention":
            refuse("drop_score_block drop_score", "only averaged_attention looks at another block")
        if self.drop_score == "oracle" and self.dataset != "shapes":
            refuse("drop_score dataset", "only shapes knows where its objects are")
        if self.drop_score == "oracle" and (self.rand_ops or self.mixing):
            refuse("drop_score rand_ops mixup_alpha cutmix_alpha", "masks do not follow RandAugment, Mixup or CutMix")

    # the parts, for whatever needs them

    @property
    def vit(self) -> ViTConfig | TimmConfig:
        """What there is to know of the ViT before it is built, and its `build`."""
        if self.model != "hybrid_vit":
            return TimmConfig(
                self.model,
                arguments(self.model_args),
                img_size=self.image_size,
                drop_rate=self.dropout,
                drop_path_rate=self.drop_path,
                any_size=bool(self.size_stages),
            )
        return ViTConfig(
            img_size=self.image_size,
            stem_width=self.stem_width,
            stem_stride=self.stem_stride,
            embed_dim=self.embed_dim,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=self.qkv_bias,
            drop_rate=self.dropout,
            drop_path_rate=self.drop_path,
        )

    @property
    def schedule(self) -> DropSchedule:
        return DropSchedule(
            init=self.drop_init,
            final=self.drop_final,
            start=self.drop_start,
            end=self.drop_end,
            gamma=self.drop_gamma,
            hold=self.drop_hold,
            shape=self.drop_shape,
            epochs=self.epochs,
            stages=stages(self.drop_stages),
            cycle=self.drop_cycle or None,
            tail=self.drop_tail,
            multiple=self.drop_multiple,
        )

    @property
    def token_drop(self) -> TokenDrop | Rival:
        blocks = whole_numbers(self.drop_blocks) or (self.drop_block,)
        if self.drop_method != "token_drop":
            return Rival(self.drop_method, blocks, self.vit.depth)
        last = self.vit.depth - 1 if self.drop_fate == "bypass" else None
        return TokenDrop(
            blocks=blocks,
            score=self.drop_score,
            choice=self.drop_choice,
            fate=self.drop_fate,
            attended=self.drop_attended,
            until=last if self.drop_until == -1 else self.drop_until,
        )

    @property
    def augmentation(self) -> Augmentation:
        resized = None
        if self.crop == "resized":
            resized = ResizedCrop(self.crop_scale_min, self.crop_ratio_min, self.crop_interpolation)
        return Augmentation(
            crop_padding=0 if resized else self.crop_padding,
            resized=resized,
            flip=self.flip,
            rand_ops=self.rand_ops,
            rand_magnitude=self.rand_magnitude,
            erase=self.erase,
        )

    @property
    def mixing(self) -> Mixing | None:
        """Mixup and CutMix; None if both are off."""
        if not self.mixup_alpha and not self.cutmix_alpha:
            return None
        return Mixing(self.mixup_alpha, self.cutmix_alpha, self.cutmix_share)

    @property
    def optimisation(self) -> Optimisation:
        return Optimisation(
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            grad_clip=self.grad_clip,
            label_smoothing=self.label_smoothing,
            ema_decay=self.ema_decay,
            accumulate_steps=self.accumulate_steps,
            layer_decay=self.layer_decay,
        )

    def load_dataset(self) -> Dataset:
        """The images that the recipe names. Raises DataError as `data.load.load` does."""
        return load(
            self.dataset,
            self.data_dir,
            image_size=self.image_size,
            subset=self.subset,
            test_subset=self.test_subset,
            download=self.download,
            label_column=self.label_column,
            images=self.images,
            cache_dir=self.cache_dir,
        )

    # what follows from the values

    def side(self, epoch: int) -> int:
        """The side in pixels of training images in an epoch; evaluation always sees image_size."""
        sizes = stages(self.size_stages)
        return int(sizes.at(epoch, self.epochs)) if sizes else self.image_size

    @property
    def sides(self) -> list[int]:
        """`side` of every epoch."""
        return [self.side(epoch) for epoch in range(self.epochs)]

    def grid_at(self, side: int) -> int:
        """Patch tokens a side of an image of that side in pixels."""
        return side // self.vit.stride

    def keep_at(self, ratio: float, side: int | None = None) -> Keep | None:
        """What a TokenDropViT is told at a drop ratio: kept patch tokens of each dropping block, None for all.

        side: of the images in pixels, by default image_size.
        """
        schedule, drop = self.schedule, self.token_drop
        tokens, keep, dropping = self.grid_at(side or self.image_size) ** 2, [], False
        for share in decimals(self.drop_shares) or (1.0,) * len(drop.blocks):
            keep.append(drop.nearest(schedule.kept_at_ratio(share * ratio, tokens), tokens))
            dropping |= keep[-1] < tokens
            tokens = drop.left(keep[-1], tokens)
        return tuple(keep) if dropping else None

    def keep(self, epoch: int) -> Keep | None:
        """`keep_at` the ratio and the side of an epoch."""
        return self.keep_at(self.schedule.ratio(epoch), self.side(epoch))

    @property
    def keeps(self) -> list[Keep | None]:
        """`keep` of every epoch."""
        schedule = self.schedule
        passes = [(schedule.ratio(epoch), side) for epoch, side in enumerate(self.sides)]
        found = {one: self.keep_at(*one) for one in set(passes)}  # most of many epochs are like others
        return [found[one] for one in passes]

    def kept_tokens(self, epoch: int) -> int:
        """Patch tokens that the last dropping block keeps in an epoch."""
        keep = self.keep(epoch)
        return keep[-1] if keep else self.grid_at(self.side(epoch)) ** 2

    def evaluated_images(self, train: int, test: int) -> int:
        """Forward passes of one evaluation: the test images once or twice, and as many training images."""
        return test * (2 if self.ema_decay else 1) + min(test, train)

    def steps(self, train_images: int) -> int:
        """Steps of an epoch, where there are so many training images."""
        return (self.epoch_images or train_images) // self.batch_size

    def keeps_weights(self, epochs: int) -> bool:
        """Whether the weights after so many epochs are kept in a file of their own."""
        return epochs == 1 or (self.weights_every > 0 and epochs % self.weights_every == 0)

    def cost(self, classes: int, keep: Keep | None = None) -> cost.Cost:
        """Operations of one image of image_size, forward and in training, with `keep` patch tokens; None: all."""
        return cost.cost(self.vit, classes, self.token_drop, keep, **self._cost_details)

    def training_costs(self, classes: int) -> list[int]:
        """Training operations per image in each epoch."""
        return cost.training_costs(self.vit, classes, self.token_drop, self.keeps, self.sides, **self._cost_details)

    def training_cost(self, classes: int) -> tuple[int, int]:
        """Training operations per image summed over epochs: as it is, and with all tokens of whole images."""
        return cost.run_training_cost(self.vit, classes, self.token_drop, self.keeps, self.sides, **self._cost_details)

    @property
    def _cost_details(self) -> dict[str, int]:
        return {"frozen_blocks": self.frozen_blocks, "score_block": self.drop_score_block}

    @property
    def chapter(self) -> str:
        """The chapter that this run belongs to: "ptd" if it ever asks for token drop, else "baseline"."""
        kept = self.schedule.stages
        asks = min(kept.values) < 1 if kept else self.drop_init > 0 or self.drop_final > 0
        return "ptd" if asks else "baseline"

    @property
    def run_name(self) -> str:
        return self.run or f"{self.chapter}_{self.dataset}_{self.fingerprint}"

    @property
    def fingerprint(self) -> str:
        """Six hexadecimal digits of everything that decides the result (not where it is read, run or written)."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:6]

    def settings(self) -> dict[str, Any]:
        """The parameters that decide the result: all but names of places and devices; of weights the digest.

        A recipe of these values has the same settings, but cannot begin training with weights.
        """
        found = {name: getattr(self, name) for name in self.deciding()}
        found["weights"] = self._weights_digest
        fields = type(self).model_fields
        return {
            name: value
            for name, value in found.items()
            if fields[name].json_schema_extra is not _LATER or value != fields[name].default
        }

    @classmethod
    def deciding(cls) -> list[str]:
        """The names of the parameters that decide the result."""
        return [name for name, field in cls.model_fields.items() if field.json_schema_extra is not _PLACE]

    @classmethod
    def token_settings(cls) -> list[str]:
        """The names of the parameters that decide how many tokens a block sees: of token drop and of image sizes."""
        return [name for name in cls.model_fields if name.startswith(("drop_", "size_")) and name != "drop_path"]

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with other values, checked as every recipe is. Raises RecipeError."""
        return type(self).from_values({**self.model_dump(), **changes})

    def overridden(self, overrides: list[str]) -> "Recipe":
        """A copy with other values from `name=value` texts of a command line. Raises RecipeError."""
        return type(self).from_values({**self.model_dump(), **self.values_of(overrides)}, source="command line")

    def model_copy(self, *, update: dict[str, Any] | None = None, deep: bool = False) -> "Recipe":
        """pydantic's own, which would not check; values here are plain, so `deep` changes nothing."""
        return self.replace(**(update or {}))

    # ways in

    @classmethod
    def from_values(cls, values: dict[str, Any], source: str = "parameters") -> "Recipe":
        """A recipe from Python values, checked strictly. `source` is named in the refusal."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(explain(error, source, cls.model_fields)) from None

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: list[str] = ()) -> "Recipe":
        """A recipe from a YAML file of `name: value` lines, then `name=value` texts from a command line.

        Raises RecipeError for anything that is not a valid recipe, also for a file that cannot be read.
        """
        return cls.from_values({**read_parameters(Path(path)), **cls.values_of(overrides)}, source=str(path))

    @classmethod
    def values_of(cls, overrides: list[str]) -> dict[str, Any]:
        """Values from `name=value` texts, each read as its parameter's type (so 4e-4 is a number here).

        What cannot be read stays text, for the recipe's check to explain. Raises RecipeError for a text that is no
        name=value, or a name given twice.
        """
        values = {}
        for text in overrides:
            name, equals, value = text.partition("=")
            if not equals:
                raise RecipeError(f"command line: {text!r} should be name=value")
            if name in values:
                raise RecipeError(f"command line: {name} is given twice; keep one of them")
            field = cls.model_fields.get(name)
            if field is None:
                values[name] = value
                continue
            choices = {str(choice): choice for choice in get_args(field.annotation)}
            if value in choices:  # pydantic takes no number of a Literal from text
                values[name] = choices[value]
                continue
            try:
                values[name] = TypeAdapter(field.annotation).validate_strings(value, strict=False)
            except ValidationError:
                values[name] = value  # left as text: the strict check that follows explains it
        return values


def parameters_cell(**defaults) -> str:
    """The source of a chapter's parameters cell: one `name: type = value  # help` a line, as papermill reads it."""
    lines = []
    for name, field in Recipe.model_fields.items():
        kind = type(get_args(field.annotation)[0]) if get_args(field.annotation) else field.annotation
        assert field.default is not PydanticUndefined
        value = (
            json.dumps(defaults.get(name, field.default)) if kind is str else repr(defaults.get(name, field.default))
        )
        lines.append(f"{name}: {kind.__name__} = {value}  # {field.description}")
    return "\n".join(lines)
