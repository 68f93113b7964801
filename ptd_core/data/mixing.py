"""Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) as one operation: a weighted sum with a map per step.

    mixed = w * image + (1 - w) * partner        w in [0, 1], one map (S, S) for the whole batch
    loss = lambda * CE(label) + (1 - lambda) * CE(partner's label)        lambda = mean of w

Mixup's map is constant; CutMix's is 0 inside a box and 1 outside. Both have one shape, so a step does not branch.
The partner is the image at the mirrored place in the batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf

from ptd_core.machine.randomness import generator


@dataclass(frozen=True)
class Mixing:
    """Mixup and CutMix of a run: mixup_alpha, cutmix_alpha: lambda ~ Beta(alpha, alpha), 0 switches that one off;
    cutmix_share: probability that a step is CutMix rather than Mixup, where both are on.

    Raises ValueError if an alpha is negative, both are 0, or the share is no probability.
    """

    mixup_alpha: float
    cutmix_alpha: float
    cutmix_share: float = 0.5

    def __post_init__(self) -> None:
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0:
            raise ValueError(
                f"mixup_alpha is {self.mixup_alpha} and cutmix_alpha {self.cutmix_alpha}; neither may be negative."
            )
        if self.mixup_alpha == 0 and self.cutmix_alpha == 0:
            raise ValueError("mixup_alpha and cutmix_alpha are both 0: ask for no mixing where nothing is mixed.")
        if not 0.0 <= self.cutmix_share <= 1.0:
            raise ValueError(f"cutmix_share is {self.cutmix_share}; a probability is between 0 and 1.")


@dataclass(frozen=True)
class MixingDraws:
    """What the steps of an epoch draw: is_cutmix bool (steps,); lam (steps,); centers (2, steps), row and column.

    image_size: S, in pixels.
    """

    is_cutmix: np.ndarray
    lam: np.ndarray
    centers: np.ndarray
    image_size: int

    def weights(self, steps: slice = slice(None)) -> torch.Tensor:
        """The weight maps of these steps, by default of all: float32 (k, S, S) on the host."""
        is_cutmix, lam = self.is_cutmix[steps], self.lam[steps]
        outside = ~_boxes(lam, self.centers[:, steps], self.image_size)
        return torch.from_numpy(np.where(is_cutmix[:, None, None], outside, lam[:, None, None]).astype(np.float32))


def draw_mixing(steps: int, image_size: int, mixing: Mixing, *, seed: int, epoch: int) -> MixingDraws:
    """The draws of an epoch, a function of (seed, epoch).

    CutMix's box is torchvision's: sides sqrt(1 - lambda) S, the centre uniform over the pixels, cut off at the edges.
    """
    share = mixing.cutmix_share if mixing.mixup_alpha and mixing.cutmix_alpha else float(mixing.cutmix_alpha > 0)
    rng = generator(seed, epoch, "mixing")
    is_cutmix = rng.random(steps) < share
    lam = rng.beta(*2 * (np.where(is_cutmix, mixing.cutmix_alpha, mixing.mixup_alpha),))
    centers = rng.integers(image_size, size=(2, steps))
    return MixingDraws(is_cutmix, lam, centers, image_size)


def mixing_weights(steps: int, image_size: int, mixing: Mixing, *, seed: int, epoch: int) -> torch.Tensor:
    """The weight map of every step of an epoch: float32 (steps, S, S) on the host."""
    return draw_mixing(steps, image_size, mixing, seed=seed, epoch=epoch).weights()


def _boxes(lam: np.ndarray, centers: np.ndarray, image_size: int) -> np.ndarray:
    """Bool (steps, S, S), True inside each step's box. lam: (steps,); centers: (2, steps), row and column."""
    half = (0.5 * np.sqrt(1.0 - lam) * image_size).astype(np.int64)
    line = np.arange(image_size)
    # Cutting off at the edges needs no arithmetic: beyond them there are no pixels to mark.
    rows, columns = ((line >= (c - half)[:, None]) & (line < (c + half)[:, None]) for c in centers)
    return rows[:, :, None] & columns[:, None, :]


def mix(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mix each image with its partner: images (B, C, S, S), weight (S, S) on their device; returns (B, C, S, S).

    Image i's partner is image B - 1 - i, so partners' labels are labels.flip(0); lambda is weight.mean().
    A pixel whose weight is 0 or 1 is exactly the partner's or the image's own.
    Raises ValueError if B is odd: the middle image would be its own partner.
    """
    if len(images) % 2:
        raise ValueError(f"The batch has {len(images)} images; mixing pairs them, so their number must be even.")
    weight = weight.to(images.dtype)
    return images * weight + images.flip(0) * (1 - weight)


def mixed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    partners: torch.Tensor,
    lam: torch.Tensor,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """lambda * CE(logits, labels) + (1 - lambda) * CE(logits, partners' labels), mean over the batch, 0-d.

    logits: (B, classes) of mixed images; labels, partners: int64 (B,), of the images before mixing and of those mixed
    in, which is labels.flip(0) of the whole batch; lam: 0-d tensor.
    Equals cross entropy with the soft target lambda * onehot + (1 - lambda) * onehot of the partner, smoothed.
    """
    own = nnf.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    other = nnf.cross_entropy(logits, partners, label_smoothing=label_smoothing)
    return lam * own + (1 - lam) * other
