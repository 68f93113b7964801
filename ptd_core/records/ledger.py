"""Where a run's time went, and what dropping tokens saved of it."""

import math
import statistics

from ptd_core.recipe import Recipe
from ptd_core.records.history import EpochRecord


def time_ledger(recipe: Recipe, records: list[EpochRecord]) -> dict:
    """Seconds of a run by what they were spent on, all its calls together, for run.json.

    The counterfactual, `all_tokens_seconds`, is the same run's training with no token dropped: the median time of
    its own epochs that dropped none (without the first, which warms up, where there are others), for every epoch.
    It and what follows from it are None where every epoch dropped tokens, other times where they were not measured.
    Compiling is no part of training_seconds.
    """
    training = sum(record.train_seconds for record in records)
    data = _measured(sum(record.data_seconds for record in records))
    ledger = {
        "training_seconds": training,
        "data_seconds": data,
        "step_seconds": None if data is None else training - data,
        "compile_seconds": _measured(sum(record.compile_seconds for record in records)),
        "evaluation_seconds": sum(record.eval_seconds for record in records),
        "all_tokens_epochs": 0,
        "all_tokens_seconds": None,
        "saved_seconds": None,
        "measured_speedup": None,
    }
    whole = [record.train_seconds for record in records if record.kept_tokens == recipe.patch_tokens]
    if whole:
        whole = whole[1:] or whole
        ledger["all_tokens_epochs"] = len(whole)
        ledger["all_tokens_seconds"] = statistics.median(whole) * len(records)
        ledger["saved_seconds"] = ledger["all_tokens_seconds"] - training
        ledger["measured_speedup"] = ledger["all_tokens_seconds"] / training
    return ledger


def _measured(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds
