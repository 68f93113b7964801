"""Moving average of a model's weights."""

from timm.utils import ModelEmaV3


class WarmupEma(ModelEmaV3):
    """timm's averaged model, with decay min(beta, (1 + n) / (10 + n)) at its n-th update, counted from 0.

    Without warm-up a decay of 0.9999 would take tens of epochs to forget the random initialisation. Batch-norm
    statistics are averaged as the weights are; integer buffers are copied. `update(model, step=n)` after each step.
    """

    def get_decay(self, step: int | None = None) -> float:
        if step is None:
            raise ValueError("WarmupEma.update needs step, the number of updates before this one")
        return min(self.decay, (1 + step) / (10 + step))
