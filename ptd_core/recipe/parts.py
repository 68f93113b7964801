"""What each part of the library is handed of the settings: none of them takes the whole recipe."""

from ptd_core.data.augment import Augmentation
from ptd_core.data.dataset import Dataset
from ptd_core.data.load import load
from ptd_core.data.mixing import Mixing
from ptd_core.data.resized_crop import ResizedCrop
from ptd_core.model import ViTConfig
from ptd_core.parameters import arguments, stages, whole_numbers
from ptd_core.recipe.settings import Settings
from ptd_core.rivals.rival import Rival
from ptd_core.schedule import DropSchedule
from ptd_core.step import Optimisation
from ptd_core.token_drop import TokenDrop
from ptd_core.vits.timm_config import TimmConfig


class Parts(Settings):
    """Settings, and the parts that they describe."""

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
    def dropping_blocks(self) -> tuple[int, ...]:
        """The blocks that drop tokens, by whichever setting names them."""
        return whole_numbers(self.drop_blocks) or (self.drop_block,)

    @property
    def token_drop(self) -> TokenDrop | Rival:
        blocks = self.dropping_blocks
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
