"""The model of a finished run, for whoever wants to use it or compare it."""

import safetensors.torch
from safetensors import SafetensorError

from ptd_core.checkpoint import Checkpoints
from ptd_core.errors import OutputError
from ptd_core.folders import Folders
from ptd_core.model import HybridViT
from ptd_core.recipe import Recipe
from ptd_core.results import read_info
from ptd_core.trainer import build_model


def load_model(run: str, out_dir: str = "") -> HybridViT:
    """The headline weights of the run of that name, in evaluation mode, on the CPU.

    out_dir: the folder that holds the run's figures/ and runs/; by default the project's own.
    Raises RecipeError for a name that no run can have, OutputError if the run or its weights are not there, or are
    damaged.
    """
    folders = Folders.of(Recipe.from_values({"run": run, "out_dir": out_dir}, source="load_model"))
    info = read_info(folders.figures)
    if info is None:
        raise OutputError(f"{folders.figures}: holds no run")
    file = Checkpoints(folders.state).weights
    try:
        weights = safetensors.torch.load_file(file)
        model = build_model(
            Recipe.from_values(info["recipe"], source=str(folders.figures)), len(weights["head.weight"])
        )
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise OutputError(f"{file}: cannot be read as the weights of {run} ({error})") from None
    return model.eval()
