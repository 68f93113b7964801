"""Checkpoints: a trainer's state and its records in one file, written whole or not at all, read without unpickling."""

import dataclasses
import io
import pickle
import zipfile
from pathlib import Path

import torch

from ptd_core.errors import OutputError
from ptd_core.history import EpochRecord, write_atomically


def save_checkpoint(path: Path, trainer_state: dict, records: list[EpochRecord], essence: dict) -> None:
    """Write the state after the last recorded epoch. `essence` says which recipe it belongs to."""
    buffer = io.BytesIO()
    torch.save(
        {"trainer": trainer_state, "records": [dataclasses.asdict(record) for record in records], "recipe": essence},
        buffer,
    )
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device) -> tuple[dict, list[EpochRecord], dict]:
    """Trainer state, records and recipe of a checkpoint; tensors on `device`. No code in the file can run.

    Raises OutputError if the file is damaged or is not a checkpoint.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        records = [EpochRecord(**record) for record in content["records"]]
        return content["trainer"], records, content["recipe"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise OutputError(
            f"{path}: is damaged or not a checkpoint ({type(error).__name__}); delete it to train anew"
        ) from None
