"""What the checks of `test_reach_of_*` work with: each shows that settings of a recipe reach what they set.

A check is given a `Bench`, changes its settings alone, and looks at what the trainer, the data or the run's folder then
is or does, not at the recipe's parts.
"""

import dataclasses

import numpy as np
import torch
from PIL import Image

from ptd_core.data.dataset import Split
from ptd_core.trainer import Trainer

PLAIN = {  # nothing random but the order and the weights
    "crop_padding": 0, "flip": False, "rand_ops": 0, "erase": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0,
    "dropout": 0.0, "drop_path": 0.0,
}  # fmt: skip


def collector():
    """An empty {setting: check}, and a decorator that enters a check under the settings that it names."""
    checks = {}

    def reaches(*names):
        def keep(check):
            checks.update(dict.fromkeys(names, check))
            return check

        return keep

    return checks, reaches


class Bench:
    """What checks work with: recipes, trainers and epochs on the tiny data, with everything random off."""

    def __init__(self, tiny, dataset, folder, monkeypatch):
        self.tiny, self.dataset, self.folder, self.monkeypatch = tiny, dataset, folder, monkeypatch

    def recipe(self, **settings):
        return self.tiny(**{**PLAIN, **settings})

    def trainer(self, dataset=None, **settings):
        return Trainer(self.recipe(**settings), dataset or self.dataset)

    def model(self, **settings):
        return self.trainer(**settings).model

    def batches(self, image=None, epochs=1, **settings):
        """The batches of the first epochs; image: float (S, S), stands for every training image."""
        dataset = self.dataset
        if image is not None:
            images = (255 * image).to(torch.uint8).expand(len(dataset.train), 3, -1, -1).contiguous()
            dataset = dataclasses.replace(dataset, train=Split(images, dataset.train.labels))
        trainer = self.trainer(dataset, **settings)
        return [batch for epoch in range(epochs) for batch in trainer.batches.epoch(epoch)]

    def images(self, **settings):
        return torch.cat([batch.images for batch in self.batches(**settings)])

    def steps(self, **settings):
        """(learning rate, keep, batch, side) of every step of a run that trains nothing."""
        trainer, seen = self.trainer(**{"ema_decay": 0.0, "eval_every": 100, **settings}), []

        class Step:
            optimizer, ranks, path = trainer.step.optimizer, trainer.ranks, trainer.path

            def __call__(self, batch, keep, side):
                seen.append((self.optimizer.param_groups[0]["lr"], keep, batch, side))
                return torch.zeros(()), torch.zeros(())

        trainer.step, trainer.evaluate = Step(), lambda model, split, rows=None: (0.0, 0.0)
        list(trainer.epochs())
        return seen

    def kept(self, **settings):
        """Patch tokens of 64 that each epoch's steps are told to keep in the first block that drops."""
        return [64 if keep is None else keep[0] for keep in self.keeps(**settings)]

    def keeps(self, **settings):
        """What each epoch's steps are told to keep."""
        steps = self.steps(**settings)
        return [keep for _, keep, _, _ in steps[:: len(steps) // settings.get("epochs", 3)]]

    def loaded(self, **settings):
        return self.recipe(**settings).load_dataset()

    def images_on_disk(self):
        for name in ("a", "b"):
            (self.folder / "pictures" / name).mkdir(parents=True)
            for i in range(25):
                Image.fromarray(np.full((20, 20, 3), 10 * i, np.uint8)).save(
                    self.folder / "pictures" / name / f"{i}.png"
                )
        return str(self.folder / "pictures")
