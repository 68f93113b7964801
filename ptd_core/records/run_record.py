"""run.json: what a run was and what came out of it, as one type that is written and read here and nowhere else."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ptd_core.errors import OutputError
from ptd_core.records.files import write_atomically
from ptd_core.records.history import EpochRecord
from ptd_core.records.ledger import TimeLedger

FILE = "run.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelFacts(_Part):
    """Of the trained model, predicted from operations. training_flops_per_image: with all tokens, forward and backward.
    training_flops: of the whole run, with the tokens that it keeps. predicted_speedup: of the whole run's training by
    fewer tokens, dropped ones and those that smaller images (`size_stages`) lack."""

    parameters: int
    training_flops_per_image: int
    training_flops: int
    predicted_speedup: float


class Results(_Part):
    """Accuracies in percent. test_accuracy is the headline: the last evaluated epoch's, of the weights that the run
    stands for. test_accuracy_raw: the same epoch's, weights without averaging. best_on_test: of the best epoch, chosen
    on test."""

    test_accuracy: float
    test_accuracy_raw: float
    clean_train_accuracy: float
    best_on_test: float

    @classmethod
    def of(cls, records: list[EpochRecord]) -> "Results | None":
        """Results of a run with these records; None if no epoch was evaluated."""
        evaluated = [record for record in records if record.evaluated]
        if not evaluated:
            return None
        return cls(
            test_accuracy=evaluated[-1].headline,
            test_accuracy_raw=evaluated[-1].test_accuracy,
            clean_train_accuracy=evaluated[-1].clean_train_accuracy,
            best_on_test=max(record.headline for record in evaluated),
        )


class Times(_Part):
    """Seconds, summed over all calls of the run; this_call_seconds: all that the call that finished it took."""

    train_seconds: float
    eval_seconds: float
    this_call_seconds: float | None = None

    @classmethod
    def of(cls, records: list[EpochRecord], this_call_seconds: float | None = None) -> "Times":
        return cls(
            train_seconds=sum(record.train_seconds for record in records),
            eval_seconds=sum(record.eval_seconds for record in records),
            this_call_seconds=this_call_seconds,
        )


class RunRecord(_Part):
    """What a run's run.json holds.

    recipe: the settings that decide the result, as `Recipe.settings()` gives them. data: `Dataset.digest` of the
    images. device, versions, commit: where the results come from, see `stamp`. precision, attention, compilation: what
    "auto" became. Of a run that was resumed elsewhere these name all places, see `stamp.joined`. results: None before
    the first evaluated epoch. finished: whether all epochs of the recipe are done; everything else that stands beside
    the file was then written before it.
    """

    run: str
    chapter: Literal["baseline", "ptd"]
    seed: int
    finished: bool
    recipe: dict[str, Any]
    data: str
    device: str
    versions: dict[str, str | None]
    commit: str | None
    precision: str
    attention: str
    compilation: str
    processes: int
    made: str
    model: ModelFacts
    epochs: int
    results: Results | None
    times: Times
    time_ledger: TimeLedger

    @classmethod
    def read(cls, folder: Path) -> "RunRecord | None":
        """The record in a run's folder, None if there is none.

        Raises OutputError if it is damaged, or of another version of this program.
        """
        path = folder / FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:  # pydantic's is a ValueError
            if cls._of_another_version(error):
                raise OutputError(
                    f"{path}: was written by another version of this program ({_reason(error)})"
                ) from None
            raise OutputError(
                f"{path}: is damaged ({_reason(error)}); delete it, and it is made again from the run's checkpoint"
            ) from None

    @classmethod
    def _of_another_version(cls, error: Exception) -> bool:
        """Whether a record is whole but for its fields, of which some are missing or not known."""
        if not isinstance(error, ValidationError) or error.error_count() >= len(cls.model_fields):
            return False
        return {one["type"] for one in error.errors()} <= {"missing", "extra_forbidden"}

    def write(self, folder: Path) -> None:
        """Raises OutputError if it cannot be written."""
        content = json.dumps(self.model_dump(), indent=1) + "\n"
        write_atomically(folder / FILE, content.encode())

    @property
    def stamp_line(self) -> str:
        """Where the results come from, in one line for the foot of a figure."""
        return (
            f"{self.run}, n = 1, seed {self.seed} · {self.device} · torch {self.versions['torch']} · "
            f"commit {self.commit}"
        )


def refuse_other_settings(mine: dict[str, Any], theirs: dict[str, Any], folder: Path) -> None:
    """Raises OutputError, naming every difference, if the run in `folder` has other settings, `theirs`, than `mine`."""
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    if names:
        values = ({name: repr(value) for name, value in settings.items()} for settings in (mine, theirs))
        here, there = ({name: found.get(name, "the default") for name in names} for found in values)
        listed = "; ".join(f"{name}: {here[name]} asked for, {there[name]} there" for name in names)
        raise OutputError(
            f"{folder}: holds a run with another recipe ({listed}); choose another name with run=NAME, "
            "another out_dir, or delete that folder"
        )


def refuse_other_data(mine: str, theirs: str, folder: Path) -> None:
    """Raises OutputError if the run in `folder` has other data, by `Dataset.digest`, than `mine`."""
    if mine != theirs:
        raise OutputError(
            f"{folder}: holds a run on other images (their digest is {theirs}, that of this data {mine}); choose "
            "another name with run=NAME, another out_dir, or delete that folder"
        )


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
