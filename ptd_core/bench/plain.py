"""The loop that a first reading of the method writes: PIL transforms in a DataLoader, a loss read at each step."""

import itertools
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from ptd_core.bench.plain_vit import PlainViT
from ptd_core.bench.workload import random_images
from ptd_core.data.dataset import Dataset
from ptd_core.machine.device import resolve_device
from ptd_core.recipe import Recipe
from ptd_core.step import WarmupEma, autocast
from ptd_core.token_drop import Keep

MAX_WORKERS = 16  # of the loader; as many as cores up to there


class PilImages(TorchDataset):
    """Each image through torchvision's transforms for PIL images, one by one."""

    def __init__(self, recipe: Recipe, dataset: Dataset):
        self.images = [to_pil_image(image) for image in dataset.train.images.cpu()]
        self.labels = dataset.train.labels.tolist()
        steps = [
            self._crop(recipe),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(recipe.rand_ops, recipe.rand_magnitude),
            transforms.ToTensor(),
            transforms.RandomErasing(recipe.erase, value="random"),
            transforms.Normalize(dataset.mean, dataset.std),
        ]
        self.transform = transforms.Compose(steps)

    @staticmethod
    def _crop(recipe: Recipe) -> nn.Module:
        found = recipe.augmentation.resized
        if found is None:
            return transforms.RandomCrop(recipe.image_size, padding=recipe.crop_padding)
        ratios = (found.crop_ratio_min, 1 / found.crop_ratio_min)
        how = transforms.InterpolationMode[found.crop_interpolation.upper()]
        return transforms.RandomResizedCrop(recipe.image_size, (found.crop_scale_min, 1.0), ratios, how)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.transform(self.images[index]), self.labels[index]


def plain_step(
    recipe: Recipe, dataset: Dataset, device: torch.device, keep: int | None, precision: str
) -> Callable[[], float]:
    """One step of that loop: load a batch, mix, forward, backward, clip, AdamW as it comes, EMA, read the loss."""
    classes = len(dataset.classes)
    model = PlainViT(recipe, classes).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    average = WarmupEma(model, decay=recipe.ema_decay) if recipe.ema_decay else None
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    loader = DataLoader(
        PilImages(recipe, dataset), batch_size=recipe.batch_size, shuffle=True, drop_last=True,
        num_workers=workers, persistent_workers=True,
    )  # fmt: skip
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    count = itertools.count()
    mixers = []
    if recipe.mixup_alpha:
        mixers.append(v2.MixUp(alpha=recipe.mixup_alpha, num_classes=classes))
    if recipe.cutmix_alpha:
        mixers.append(v2.CutMix(alpha=recipe.cutmix_alpha, num_classes=classes))
    mixer = v2.RandomChoice(mixers) if mixers else None

    def step() -> float:
        images, labels = next(batches)
        images, labels = images.to(device), labels.to(device)
        if mixer:
            images, labels = mixer(images, labels)
        with autocast(device, precision):
            logits = model(images, keep)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip or float("inf"))
        optimizer.step()
        if average:
            average.update(model, step=next(count))
        return loss.item()

    return step


def plain_step_apart(recipe: Recipe, precision: str, keep: Keep | None) -> Callable[[], float]:
    """That step on random images, built wherever it is called: for a process of its own."""
    return plain_step(recipe, random_images(recipe), resolve_device(recipe.device), keep and keep[0], precision)
