"""What a sweep says while its runs are under way."""

import time
from collections.abc import Callable

from ptd_core.progress import duration, say
from ptd_core.sweep.plan import PlannedRun

# Called with a run and its event, whose kind is "starts", "epoch", "prints", "done" or "failed"; or with None and a
# remark.
Show = Callable[[PlannedRun | None, dict], None]


class Terminal:
    """One line per epoch and per finished run, with the share of the sweep's epochs that are done."""

    def __init__(self, runs: list[PlannedRun], quiet: bool):
        self.epochs = dict.fromkeys((run.name for run in runs), 0)  # done, of each run
        self.total = sum(run.recipe.epochs for run in runs)
        self.started: set[str] = set()
        self.width = max(map(len, self.epochs))
        self.quiet = quiet
        self.began, self.seen = time.perf_counter(), 0  # epochs seen since then

    def left(self) -> str:
        """The time that the other epochs will take, if they take what those until now took."""
        remaining = self.total - sum(self.epochs.values())
        if not self.seen or not remaining:
            return ""
        return f"; about {duration((time.perf_counter() - self.began) / self.seen * remaining)} left"

    def __call__(self, run: PlannedRun | None, event: dict) -> None:
        if run is None:
            say(event["text"])
            return
        text = event["text"]
        if event["kind"] == "starts" and run.name in self.started:
            text = f"its worker was lost; resumed: {text}"
        elif event["kind"] == "epoch":
            self.epochs[run.name] = event["epoch"] + 1
            self.seen += 1
        elif event["kind"] == "done":
            self.epochs[run.name] = run.recipe.epochs
            results, times = event["record"].results, event["record"].times
            text = (
                f"done: test accuracy {results.test_accuracy:.2f} %, "
                f"{duration(times.train_seconds + times.eval_seconds)}{self.left()}"
            )
        elif event["kind"] == "failed":
            text = f"failed: {text}"
        if event["kind"] == "starts":
            self.started.add(run.name)
        if not self.quiet or event["kind"] in ("done", "failed"):
            share = f"{sum(self.epochs.values())}/{self.total}".rjust(2 * len(str(self.total)) + 1)
            say(f"{share}  {run.name.ljust(self.width)}  {text}")
