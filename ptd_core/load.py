"""The trained model of a finished run, from its folder."""

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from ptd_core.errors import OutputError
from ptd_core.recipe import Recipe
from ptd_core.records import run_record
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.folders import RunFolder
from ptd_core.records.run_record import RunRecord
from ptd_core.trainer import build_model


def load_model(run: str, out_dir: str = "") -> nn.Module:
    """The headline weights of the run of that name, in evaluation mode, on the CPU.

    out_dir: the folder that holds the run's runs/; by default the project's own.
    Raises RecipeError for a name that no run can have, OutputError if the run is not finished or its weights damaged.
    """
    recipe = Recipe.from_values({"run": run, "out_dir": out_dir}, source="load_model")
    folder = RunFolder(run, recipe.out_dir).path
    record = RunRecord.read(folder)
    if record is None or not record.finished:
        raise OutputError(f"{folder}: holds no run with a {run_record.FILE} that says it is finished")
    return load_weights(folder, record)


def load_weights(folder: Path, record: RunRecord, epochs: int | None = None) -> nn.Module:
    """`load_model` of the run in a folder, whose record was read. epochs: as it was after so many, if that is kept."""
    file = Checkpoints(folder).weights_after(epochs) if epochs else Checkpoints(folder).weights
    try:
        weights = safetensors.torch.load_file(file)
        model = build_model(Recipe.from_values(record.recipe, source=str(folder)), len(weights["head.weight"]))
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise OutputError(f"{file}: cannot be read as the weights of {record.run} ({error})") from None
    return model.eval()
