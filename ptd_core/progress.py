"""How a run shows that it advances: a bar per step where somebody watches, one line per epoch everywhere."""

import os
import sys

from tqdm.auto import tqdm

from ptd_core.records.history import EpochRecord


def somebody_watches() -> bool:
    """Whether a moving bar can be seen: in a terminal, and in a notebook that a person has open.

    A Jupyter server names the notebook's session to its kernels in JPY_SESSION_NAME, papermill and nbconvert do not;
    under them a bar would only leave its last state in the saved notebook.
    """
    if "ipykernel" in sys.modules:
        return any(name in os.environ for name in ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"))
    return sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 13 h 40 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class Progress:
    """Prints a run's epochs, and draws a bar over its steps if `bar` (by default: if somebody watches)."""

    def __init__(self, bar: bool | None = None):
        self._show_bar = somebody_watches() if bar is None else bar
        self._bar = None

    def say(self, text: str) -> None:
        tqdm.write(text) if self._bar is not None else print(text, flush=True)

    def step(self, epoch: int, done: int, steps: int) -> None:
        if not self._show_bar:
            return
        if self._bar is None:
            self._bar = tqdm(total=steps, desc=f"epoch {epoch}", unit="step", leave=False)
        self._bar.update(done - self._bar.n)
        if done == steps:
            self.close()

    def epoch(self, record: EpochRecord, epochs: int) -> None:
        """One line; the columns that were not measured in this epoch are left out."""
        self.close()
        tests = f"  test {record.headline:6.2f} %  train (clean) {record.clean_train_accuracy:6.2f} %"
        self.say(
            f"epoch {record.epoch + 1:3d}/{epochs}  kept {record.kept_tokens:4d}  loss {record.train_loss:.4f}"
            f"{tests if record.evaluated else ''}  {record.images_per_second:.0f} images/s"
        )

    def close(self) -> None:
        """Take the bar away, also when a run stops in the middle of an epoch."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
