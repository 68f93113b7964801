"""How many images of which class a run was begun with, and the refusal to go on with others."""

import torch

from ptd_core.data.dataset import Dataset
from ptd_core.errors import OutputError


def image_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """{"training" or "test": {class: number of images}}, for a checkpoint."""
    return {
        part: dict(zip(dataset.classes, torch.bincount(split.labels, minlength=len(dataset.classes)).tolist()))
        for part, split in (("training", dataset.train), ("test", dataset.test))
    }


def refuse_other_images(state: dict, now: dict[str, dict[str, int]], *, steps: int, epochs: int) -> None:
    """Raises OutputError, naming a difference, if a trainer's state was made with other numbers of images than `now`.

    steps: of an epoch now. A state of an earlier version has no numbers; only the steps of its epoch are compared.
    epochs: of the run; nothing is refused if all are done.
    """
    if state["next_epoch"] >= epochs:
        return
    begun = state.get("images")
    if begun is None:
        if state["partial"] and len(state["partial"]["losses"]) != steps:
            had = len(state["partial"]["losses"])
            raise OutputError(f"the run was begun with {had} steps in an epoch, now there are {steps}. {_WAYS}")
        return
    for part, counts in now.items():
        before = begun[part]
        for name in sorted(before.keys() | counts.keys()):
            if before.get(name) != counts.get(name):
                had, has = (
                    f"{found[name]:,} {part} image(s) of class {name}" if name in found else f"no class {name}"
                    for found in (before, counts)
                )
                raise OutputError(f"the run was begun with {had}, now there is or are {has}. {_WAYS}")


_WAYS = (
    "Images were added or removed since. Put the files back as they were to resume it, or choose another name for a "
    "new run."
)
