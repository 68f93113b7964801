"""What the settings of a run say together: combinations that mean nothing are refused, by name."""

from typing import TYPE_CHECKING, NoReturn

from ptd_core.parameters import decimals, stages
from ptd_core.schedule import TO_END

if TYPE_CHECKING:
    from ptd_core.recipe.recipe import Recipe

_HYBRID = ("stem_width", "stem_stride", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")  # of hybrid_vit

_RESIZED = ("crop_scale_min", "crop_ratio_min", "crop_interpolation")  # of crop resized

_POLICY = ("drop_score", "drop_choice", "drop_fate", "drop_attended", "drop_until")  # of drop_method token_drop


def check(recipe: "Recipe") -> None:
    """Raises ValueError for the first combination that cannot be, with the settings' names and values.

    Each check may rely on those before it: a schedule of refused settings could not be built.
    """
    for part in (_data, _model, _crop, _policy, _blocks, _sizes, _kept_tokens, _scores, _batches):
        part(recipe)


def _refuse(recipe: "Recipe", names: str, why: str) -> NoReturn:
    values = ", ".join(f"{name} = {getattr(recipe, name)!r}" for name in names.split())
    raise ValueError(f"{values}: {why}")


def _changed(recipe: "Recipe", name: str) -> bool:
    """Whether a setting is not its default."""
    return getattr(recipe, name) != type(recipe).model_fields[name].default


def _data(recipe: "Recipe") -> None:
    if recipe.dataset.startswith("cifar") and recipe.image_size != 32:
        _refuse(recipe, "dataset image_size", "CIFAR images are 32 pixels wide")
    if recipe.images == "mapped" and recipe.dataset not in ("folder", "parquet"):
        _refuse(recipe, "dataset images", "images of folder and parquet can be mapped; the others fit into memory")
    if recipe.label_column and recipe.dataset != "parquet":
        _refuse(recipe, "dataset label_column", "only parquet has columns to choose from")


def _model(recipe: "Recipe") -> None:
    if recipe.model == "hybrid_vit":
        if recipe.model_args:
            _refuse(recipe, "model model_args", "are arguments of a timm model; hybrid_vit has settings of its own")
        if recipe.image_size % recipe.stem_stride:
            _refuse(recipe, "image_size stem_stride", "image_size must be a multiple of stem_stride")
        if recipe.embed_dim % recipe.num_heads:
            _refuse(recipe, "embed_dim num_heads", "embed_dim must be a multiple of num_heads")
        if int(recipe.mlp_ratio * recipe.embed_dim) < 1:
            _refuse(recipe, "mlp_ratio embed_dim", "the MLP would have no hidden unit")
        return
    for name in _HYBRID:
        if _changed(recipe, name):
            why = f"{name} is of hybrid_vit alone; a timm model takes its own from model_args"
            _refuse(recipe, f"model {name}", why)
    try:
        stride = recipe.vit.stride
    except ValueError as error:
        _refuse(recipe, _of_model(recipe), str(error))
    if recipe.image_size % stride:
        _refuse(recipe, "image_size model", f"image_size must be a multiple of the {stride} pixels of a patch")


def _of_model(recipe: "Recipe", hybrid: str = "model") -> str:
    """The settings that a property of the ViT comes from; of hybrid_vit it is the one named."""
    if recipe.model == "hybrid_vit":
        return hybrid
    return "model model_args" if recipe.model_args else "model"


def _of_blocks(recipe: "Recipe") -> str:
    """The setting that names the dropping blocks."""
    return "drop_blocks" if recipe.drop_blocks else "drop_block"


def _crop(recipe: "Recipe") -> None:
    for name in _RESIZED:
        if recipe.crop != "resized" and _changed(recipe, name):
            _refuse(recipe, f"crop {name}", f"{name} is of crop = 'resized' alone")
    if recipe.crop == "resized" and recipe.crop_padding and _changed(recipe, "crop_padding"):
        _refuse(recipe, "crop crop_padding", "a resized crop has no padding")


def _policy(recipe: "Recipe") -> None:
    """That there is a schedule and a policy, each in itself."""
    if recipe.drop_shape in TO_END and recipe.drop_end < recipe.drop_start:
        _refuse(recipe, "drop_start drop_end", "drop_end must not come before drop_start")
    if recipe.drop_method == "tome" and (recipe.drop_block or recipe.drop_blocks):
        _refuse(recipe, f"drop_method {_of_blocks(recipe)}", "tome merges in every block")
    if recipe.drop_block and recipe.drop_blocks:
        _refuse(recipe, "drop_block drop_blocks", "name the dropping blocks in one of them")
    for shape, needed in (("steps", "drop_stages"), ("cyclic", "drop_cycle")):
        if bool(getattr(recipe, needed)) != (recipe.drop_shape == shape):
            _refuse(recipe, f"drop_shape {needed}", f"{shape} needs {needed}, and nothing else does")
    returning = recipe.drop_fate == "bypass" and recipe.drop_until == -1
    if returning and max(recipe.dropping_blocks) >= recipe.vit.depth - 1:
        why = "there is no block after it before which the tokens could be back; drop_until may be the end"
        _refuse(recipe, f"drop_fate {_of_blocks(recipe)} {_of_model(recipe, 'depth')}", why)
    try:
        _ = recipe.token_drop, recipe.schedule
    except ValueError as error:  # which begins with the field's name
        raise ValueError(f"drop_{error}") from None


def _blocks(recipe: "Recipe") -> None:
    """Which blocks there are for what is asked of them."""
    drop, depth = recipe.token_drop, recipe.vit.depth
    names, name = _of_model(recipe, "depth"), _of_blocks(recipe)
    if recipe.frozen_blocks > depth:
        _refuse(recipe, f"frozen_blocks {names}", f"frozen_blocks must be from 0 to {depth}")
    if drop.blocks[-1] >= depth:
        _refuse(recipe, f"{name} {names}", f"{name} must be from 0 to {depth - 1}")
    if recipe.drop_method != "token_drop":
        for other in _POLICY:
            if _changed(recipe, other):
                _refuse(recipe, f"drop_method {other}", f"{recipe.drop_method} has its own")
        if recipe.drop_method == "dynamicvit" and not recipe.ema_decay:
            why = "its teacher is the moving average of the weights, and there is none"
            _refuse(recipe, "drop_method ema_decay", why)
    elif drop.until is not None and drop.until > depth:
        _refuse(recipe, f"drop_until {names}", f"the last block is {depth - 1}; {depth} is the end")
    shares = decimals(recipe.drop_shares)
    if shares and len(shares) != len(drop.blocks):
        _refuse(recipe, f"{name} drop_shares", "give one factor for each dropping block")


def _sides(recipe: "Recipe") -> list[float]:
    sizes = stages(recipe.size_stages)
    return list(sizes.values) if sizes else [recipe.image_size]


def _sizes(recipe: "Recipe") -> None:
    stride, name = recipe.vit.stride, _of_model(recipe, "stem_stride")
    for side in _sides(recipe):
        if side != int(side):
            _refuse(recipe, "size_stages", f"{side} must be a whole number of pixels")
    for side in map(int, _sides(recipe)):
        if side % stride or not 8 <= side <= recipe.image_size:
            multiple = name if name == "stem_stride" else f"the {stride} pixels of a patch"
            why = f"{side} must be a multiple of {multiple} up to image_size"
            _refuse(recipe, f"size_stages image_size {name}", why)


def _kept_tokens(recipe: "Recipe") -> None:
    """That in no epoch fewer tokens are asked for than there can be."""
    schedule, drop, shares = recipe.schedule, recipe.token_drop, decimals(recipe.drop_shares)
    sides = [int(side) for side in _sides(recipe)]
    tokens = recipe.grid_at(min(sides)) ** 2
    size = f"{'size_stages' if recipe.size_stages else 'image_size'} {_of_model(recipe, 'stem_stride')}"
    for name, ratios in schedule.given_ratios.items():
        if schedule.tokens_at_ratio(max(ratios), tokens) < 1:
            _refuse(recipe, f"drop_{name} {size}", f"of {tokens} patch tokens less than one would be kept")
    final = f"drop_{list(schedule.given_ratios)[-1]}"
    if recipe.chapter == "ptd" and 1 < recipe.vit.patch_tokens <= recipe.drop_multiple:
        why = f"no multiple of it is below the {recipe.vit.patch_tokens} patch tokens: none would be dropped"
        _refuse(recipe, f"drop_multiple image_size {_of_model(recipe, 'stem_stride')}", why)
    if not shares and recipe.drop_method == "token_drop":
        return
    most = max(schedule.ratio(epoch) for epoch in range(recipe.epochs))
    if shares and max(shares) * most >= 1:
        _refuse(recipe, f"drop_shares {final}", "a factor times the drop ratio must stay below 1")
    for side in sides:
        try:
            if keep := recipe.keep_at(most, side):
                drop.reaching(keep, recipe.grid_at(side) ** 2)
        except ValueError as error:
            _refuse(recipe, f"drop_method {final} {_of_model(recipe, 'depth')}", str(error))


def _scores(recipe: "Recipe") -> None:
    """That the score finds what it looks at."""
    vit, score = recipe.vit, recipe.drop_score
    try:
        vit.check(recipe.token_drop)
    except ValueError as error:
        _refuse(recipe, "model drop_method drop_score drop_fate", str(error))
    if score == "averaged_attention" and not recipe.ema_decay:
        _refuse(recipe, "drop_score ema_decay", "there is no moving average of the weights")
    if recipe.drop_score_block >= vit.depth:
        why = f"drop_score_block must be from 0 to {vit.depth - 1}, or -1"
        _refuse(recipe, f"drop_score_block {_of_model(recipe, 'depth')}", why)
    if recipe.drop_score_block != -1 and score != "averaged_attention":
        _refuse(recipe, "drop_score_block drop_score", "only averaged_attention looks at another block")
    if score == "oracle" and recipe.dataset != "shapes":
        _refuse(recipe, "drop_score dataset", "only shapes knows where its objects are")
    if score == "oracle" and (recipe.rand_ops or recipe.mixing):
        why = "masks do not follow RandAugment, Mixup or CutMix"
        _refuse(recipe, "drop_score rand_ops mixup_alpha cutmix_alpha", why)


def _batches(recipe: "Recipe") -> None:
    if recipe.mixing and recipe.batch_size % 2:
        why = "mixing pairs the images of a batch, which must be even"
        _refuse(recipe, "batch_size mixup_alpha cutmix_alpha", why)
    if recipe.batch_size % recipe.accumulate_steps:
        _refuse(recipe, "batch_size accumulate_steps", "the micro-batches of a batch must be equally large")
    if recipe.subset and recipe.subset < recipe.batch_size:
        _refuse(recipe, "subset batch_size", "the training images do not fill one batch")
    if recipe.epoch_images and recipe.epoch_images < recipe.batch_size:
        _refuse(recipe, "epoch_images batch_size", "the images of an epoch do not fill one batch")
    if recipe.subset and recipe.epoch_images > recipe.subset:
        _refuse(recipe, "epoch_images subset", "an epoch has no image twice")
