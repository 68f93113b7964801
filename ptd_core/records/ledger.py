"""Where a run's time went, and what dropping tokens saved of it."""

import math
import statistics

from pydantic import BaseModel, ConfigDict

from ptd_core.records.history import EpochRecord


class TimeLedger(BaseModel):
    """Seconds of a run by what they were spent on, over all its calls; None where they were not measured.

    Compiling is no part of training_seconds. all_tokens_seconds is a counterfactual: the same run's training with all
    tokens of whole images, that is, the median time of its own all_tokens_epochs that had them, for every epoch. It
    and what follows from it are None where every epoch had fewer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    training_seconds: float
    data_seconds: float | None
    step_seconds: float | None
    compile_seconds: float | None = None  # not in older records
    evaluation_seconds: float
    all_tokens_epochs: int = 0
    all_tokens_seconds: float | None = None
    saved_seconds: float | None = None
    measured_speedup: float | None = None


def time_ledger(records: list[EpochRecord], patch_tokens: int) -> TimeLedger:
    """The ledger of a run whose images have `patch_tokens` tokens.

    The run's first epoch, which warms up, does not count among those with all tokens where there are others.
    """
    training = sum(record.train_seconds for record in records)
    data = _measured(sum(record.data_seconds for record in records))
    whole = [record for record in records if record.kept_tokens == patch_tokens]
    whole = [record.train_seconds for record in [one for one in whole if one is not records[0]] or whole]
    all_tokens = statistics.median(whole) * len(records) if whole else None
    return TimeLedger(
        training_seconds=training,
        data_seconds=data,
        step_seconds=None if data is None else training - data,
        compile_seconds=_measured(sum(record.compile_seconds for record in records)),
        evaluation_seconds=sum(record.eval_seconds for record in records),
        all_tokens_epochs=len(whole),
        all_tokens_seconds=all_tokens,
        saved_seconds=None if all_tokens is None else all_tokens - training,
        measured_speedup=None if all_tokens is None else all_tokens / training,
    )


def _measured(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds
