"""A finished run's model as a folder that timm and the model hub read: weights, config.json, and a card, README.md.

`timm.create_model("local-dir:runs/NAME/model", pretrained=True)`; a HybridViT also needs `import ptd_core`.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ptd_core.data.dataset import Dataset
from ptd_core.errors import OutputError
from ptd_core.recipe import Recipe
from ptd_core.records.files import make_folder, remove_leftovers, write_atomically
from ptd_core.records.run_record import RunRecord

FOLDER = "model"  # in the run's
WEIGHTS = "model.safetensors"  # the hub's name
HUB = {"cifar100": "uoft-cs/cifar100", "cifar10": "uoft-cs/cifar10"}  # names of data sets on the hub


@dataclass(frozen=True)
class ModelCard:
    """What there is to say of a trained model.

    architecture: timm's name. arguments: its own, beside the number of classes. features: width before the head.
    first_conv, classifier: names of these modules. image_size: in pixels. mean, std: by which pixels in [0, 1] are
    normalised, per channel. classes: their names.
    """

    architecture: str
    arguments: dict[str, Any]
    features: int
    first_conv: str
    classifier: str | tuple[str, ...]
    image_size: int
    dataset: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, recipe: Recipe, data: Dataset, vit: nn.Module) -> "ModelCard":
        """That of a recipe's model on its data."""
        names = getattr(vit, "pretrained_cfg", {"first_conv": "stem.0", "classifier": "head"})  # HybridViT's
        return cls(
            architecture=recipe.model.partition(".")[0],
            arguments=recipe.vit.arguments_of_model(),
            features=vit.num_features,
            first_conv=names["first_conv"],
            classifier=names["classifier"],
            image_size=recipe.image_size,
            dataset=data.name,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
        )

    def config(self) -> dict[str, Any]:
        """timm's config.json. Test images are the shorter side resized to image_size, then the centre: crop_pct 1."""
        return {
            "architecture": self.architecture,
            "num_classes": len(self.classes),
            "num_features": self.features,
            "model_args": self.arguments,
            "label_names": list(self.classes),
            "pretrained_cfg": {
                "input_size": [3, self.image_size, self.image_size],
                "fixed_input_size": True,
                "interpolation": "bicubic",
                "crop_pct": 1.0,
                "crop_mode": "center",
                "mean": list(self.mean),
                "std": list(self.std),
                "num_classes": len(self.classes),
                "pool_size": None,
                "first_conv": self.first_conv,
                "classifier": self.classifier,
            },
        }

    def readme(self, record: RunRecord) -> str:
        """The card: metadata in YAML, then what it is, how it is used and how it was trained."""
        accuracy, dataset = record.results.test_accuracy, HUB.get(self.dataset)
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": self.dataset, "type": dataset or self.dataset},
            "metrics": [{"type": "accuracy", "value": round(accuracy / 100, 6)}],
        }
        about = {
            "library_name": "timm",
            "pipeline_tag": "image-classification",
            "tags": ["image-classification", "timm", "vision-transformer", "token-dropping"],
            **({"datasets": [dataset]} if dataset else {}),
            "metrics": ["accuracy"],
            "model-index": [{"name": record.run, "results": [result]}],
        }
        hybrid = "import ptd_core  # registers hybrid_vit\n" if self.architecture == "hybrid_vit" else ""
        front, recipe = (yaml.safe_dump(part, sort_keys=False) for part in (about, record.recipe))
        return (
            f"---\n{front}---\n\n# {record.run}\n\n"
            f"`{self.architecture}` with {record.model.parameters:,} parameters, trained on {self.dataset} "
            f"({len(self.classes)} classes, {self.image_size} pixels) by ptd_core. Test accuracy after the last epoch, "
            f"with all tokens: {accuracy:.2f} % (one seed: {record.seed}).\n\n"
            f"```python\nimport timm\n{hybrid}\n"
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # FOLDER: this one\n'
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n```\n\n"
            f"Made {record.made} with torch {record.versions['torch']} on {record.device}, commit {record.commit}. "
            f"Settings:\n\n```yaml\n{recipe}```\n"
        )

    def write(self, folder: Path, weights: Path, record: RunRecord) -> None:
        """Write the folder into a run's. weights: the file that it shares. Raises OutputError if it fails."""
        there = folder / FOLDER
        make_folder(there)
        remove_leftovers(there)
        _share(weights, there / WEIGHTS)
        write_atomically(there / "config.json", (json.dumps(self.config(), indent=1) + "\n").encode())
        write_atomically(there / "README.md", self.readme(record).encode(errors="replace"))


def _share(file: Path, to: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    beside = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        os.link(file, beside)
        os.replace(beside, to)
        return
    except OSError:
        pass
    finally:
        beside.unlink(missing_ok=True)  # it stays where both were one file before
    try:
        content = file.read_bytes()
    except OSError as error:
        raise OutputError(f"{file}: cannot be read ({error.strerror or error})") from None
    write_atomically(to, content)
