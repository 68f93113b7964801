"""The settings of a run: name, default, unit and bounds of each, written once, and what a value alone must be."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ptd_core.data.resized_crop import FILTERS
from ptd_core.parameters import arguments, decimals, expanded, fitted, stages, whole_numbers
from ptd_core.records.event_log import LOGS
from ptd_core.records.folders import NAME
from ptd_core.rivals.rival import NETWORKS
from ptd_core.saliency import SCORES
from ptd_core.token_drop import ATTENDED
from ptd_core.tokens.choices import CHOICES
from ptd_core.tokens.fates import FATES
from ptd_core.vits.weights import digest_of

PLACE = {"place": True}  # says where a run reads, writes and computes; not what it computes

# Not in the settings of a run that has the default, which so stay those of runs from before there was such a parameter.
LATER = {"later": True}

_LISTS = {  # settings that hold several values, and what reads them
    "drop_blocks": whole_numbers,
    "drop_shares": decimals,
    "drop_stages": stages,
    "size_stages": stages,
    "model_args": arguments,
}


def _setting(default, help, *, kind=None, **bounds):
    return Field(default, description=help, json_schema_extra=kind, **bounds)


class Settings(BaseModel):
    """Flat, one setting a line. Values are checked strictly: text is no number, and unknown names are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    # run
    run: str = _setting(
        "",
        "name of the run's folder; empty: made from chapter, dataset and settings",
        kind=PLACE,
        pattern=rf"^({NAME.pattern})?$",
    )
    seed: int = _setting(0, "seed of initialisation, order, augmentation and dropout", ge=0, le=2**31 - 1)
    device: str = _setting(
        "auto",
        "auto, cpu, mps, cuda or cuda:N; auto takes CUDA, then MPS, then the CPU",
        kind=PLACE,
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
        kind=PLACE,
    )
    checkpoint_activations: bool = _setting(
        False,
        "compute blocks' activations again in the backward pass: less memory, same result",
        kind=PLACE,
    )
    out_dir: str = _setting("", "folder that receives runs/; empty: the project's own", kind=PLACE)
    log: Literal[LOGS] = _setting(
        "none", "none, or tensorboard: every record as a point of event files in the run's folder", kind=PLACE
    )
    checkpoint_every: int = _setting(1, "epochs between checkpoints", kind=PLACE, ge=1, le=100_000)
    checkpoint_seconds: float = _setting(
        60.0, "seconds of training between checkpoints within an epoch; 0: none", kind=PLACE, ge=0, le=10**6
    )
    weights_every: int = _setting(
        0, "epochs between weights that are kept in files; 0: the first epoch's alone", kind=PLACE, ge=0, le=100_000
    )

    # data
    dataset: Literal["shapes", "cifar100", "cifar10", "folder", "parquet"] = _setting(
        "shapes", "shapes (generated), cifar100, cifar10, folder (class folders) or parquet (hub shards)"
    )
    data_dir: str = _setting("data", "where the dataset lies; shapes needs none", kind=PLACE, min_length=1)
    download: bool = _setting(True, "let torchvision download an absent CIFAR", kind=PLACE)
    label_column: str = _setting("", "of dataset parquet: column of labels; empty: the only one", kind=LATER)
    images: Literal["resident", "mapped"] = _setting(
        "resident", "resident in memory, or mapped from a file of decoded images (folder and parquet)", kind=PLACE
    )
    cache_dir: str = _setting("", "folder for that file; empty: cache/ in the project", kind=PLACE)
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
        kind=LATER,
        pattern=r"^[\w.]+$",
    )
    model_args: str = _setting(
        "",
        "arguments of the timm ViT, as patch_size:4, depth:6",
        kind=LATER,
    )
    weights: str = _setting(
        "", "file of weights to begin with: .safetensors, .pt, .pth or .bin; empty: drawn by seed", kind=LATER
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
    drop_hold: bool = _setting(True, "hold drop_final after drop_end; False (polynomial, cosine): all tokens again")
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
        "padded", "padded (zeros around, then a random crop) or resized (a random part of the image)", kind=LATER
    )
    crop_scale_min: float = _setting(
        0.08, "of crop resized: smallest share of the image's area; the largest is 1", kind=LATER, gt=0, le=1
    )
    crop_ratio_min: float = _setting(
        0.75, "of crop resized: smallest width over height; the largest is 1 over that", kind=LATER, gt=0, le=1
    )
    crop_interpolation: Literal[tuple(FILTERS)] = _setting(
        "bicubic", "of crop resized: bicubic or bilinear, both antialiased", kind=LATER
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
        0, "training images an epoch, others in the next while enough are left; 0: all", kind=LATER, ge=0, le=10**9
    )
    batch_size: int = _setting(64, "images a training step; an epoch omits its last, smaller batch", ge=1, le=10**6)
    accumulate_steps: int = _setting(
        1,
        "micro-batches of a batch, one by one, for memory; batch norm and dropout see each alone",
        kind=LATER,
        ge=1,
        le=10**6,
    )
    eval_batch_size: int = _setting(256, "images an evaluation step", ge=1, le=10**6)
    eval_every: int = _setting(1, "epochs between evaluations; the last epoch always has one", ge=1, le=100_000)
    lr: float = _setting(1.5e-3, "peak learning rate of AdamW", gt=0, le=10)
    layer_decay: float = _setting(
        1.0,
        "learning rate of each block over that of the next, down from the head; 1: one for all",
        kind=LATER,
        gt=0,
        le=1,
    )
    frozen_blocks: int = _setting(
        0,
        "first blocks not trained, nor stem, class token, positions; all: only the head is; 0: none",
        kind=LATER,
        ge=0,
        le=64,
    )
    weight_decay: float = _setting(0.05, "decoupled weight decay, on every parameter", ge=0, le=10)
    warmup_epochs: int = _setting(1, "epochs of linear warm-up, before the cosine", ge=0, le=100_000)
    grad_clip: float = _setting(1.0, "largest gradient norm; 0: no clipping", ge=0, le=10**6)
    label_smoothing: float = _setting(0.03, "label smoothing", ge=0, lt=1)
    ema_decay: float = _setting(0.98, "decay of the weights' moving average; 0: off", ge=0, lt=1)

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
