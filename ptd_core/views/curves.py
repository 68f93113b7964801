"""Static figures of a run from its records. They read, never train; widgets and chapters show them."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ptd_core.recipe import Recipe
from ptd_core.records.history import EpochRecord
from ptd_core.schedule import DropSchedule
from ptd_core.views.style import BLUE, GREEN, GREY, ORANGE, new_figure, save_figure, styled


@styled
def accuracy_figure(records: list[EpochRecord], stamp: str = "") -> Figure:
    """Test accuracy of both sets of weights and training accuracy of both kinds, in percent over epochs."""
    figure = new_figure(stamp)
    axes = figure.subplots()
    weights = "averaged" if any(record.ema_test_accuracy == record.ema_test_accuracy for record in records) else "raw"
    _line(axes, records, "train_accuracy", "train, augmented batch, own label", GREY, ":")
    _line(axes, records, "clean_train_accuracy", f"train, clean images, {weights} weights", GREEN, "--")
    _line(axes, records, "test_accuracy", "test, raw weights", ORANGE, "-")
    _line(axes, records, "ema_test_accuracy", "test, averaged weights", BLUE, "-")
    axes.set(xlabel="epochs trained", ylabel="accuracy (%)")
    _finish(axes)
    return figure


@styled
def loss_figure(records: list[EpochRecord], stamp: str = "") -> Figure:
    """Training and test loss in nats over epochs; the training loss has label smoothing and mixing in it."""
    figure = new_figure(stamp)
    axes = figure.subplots()
    _line(axes, records, "train_loss", "train (augmented, smoothed labels)", GREY, ":")
    _line(axes, records, "test_loss", "test, raw weights", ORANGE, "-")
    _line(axes, records, "ema_test_loss", "test, averaged weights", BLUE, "-")
    axes.set(xlabel="epochs trained", ylabel="cross-entropy (nats)")
    _finish(axes)
    return figure


@styled
def lr_figure(records: list[EpochRecord], stamp: str = "") -> Figure:
    """Learning rate of each epoch's last step."""
    figure = new_figure(stamp)
    axes = figure.subplots()
    _line(axes, records, "lr", "learning rate at the end of the epoch", BLUE, "-")
    axes.set(xlabel="epochs trained", ylabel="learning rate")
    axes.ticklabel_format(axis="y", scilimits=(0, 0))
    _finish(axes)
    return figure


@styled
def drop_figure(
    schedule: DropSchedule, epochs: int, patch_tokens: int, stamp: str = "", kept: Sequence[int] = ()
) -> Figure:
    """The drop ratio d(t) and, beside it, the kept patch tokens k(t) over the epochs of a run.

    kept: k(t) of each epoch; by default what one block keeps of patch_tokens.
    """
    figure = new_figure(stamp, (7.4, 3.2))
    left, right = figure.subplots(1, 2)
    times = range(epochs + 1)  # the last epoch, too, is drawn as long as it lasts
    ratios = [schedule.ratio(min(t, epochs - 1)) for t in times]
    left.step(times, ratios, where="post", color=BLUE)
    kept = kept or [schedule.kept(t, patch_tokens) for t in range(epochs)]
    kept = [kept[min(t, epochs - 1)] for t in times]
    right.step(times, kept, where="post", color=BLUE)
    left.set(xlabel="epoch t", ylabel="drop ratio d(t)", ylim=(-0.02, max(0.4, *ratios) + 0.05))
    right.set(xlabel="epoch t", ylabel=f"kept patch tokens k(t) of {patch_tokens}", ylim=(0, patch_tokens * 1.08))
    place = {"textcoords": "offset points", "xytext": (-4, -12), "ha": "right"}
    right.annotate(f"{kept[-1]}", (epochs, kept[-1]), color=BLUE, **place)
    for axes in (left, right):
        axes.grid()
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def save_run_figures(recipe: Recipe, records: list[EpochRecord], folder: Path, stamp: str) -> None:
    """Save the figures of every run, under the original's names, and its drop-ratio curve."""
    figures = {
        "accuracy": accuracy_figure(records, stamp),
        "loss": loss_figure(records, stamp),
        "lr_schedule": lr_figure(records, stamp),
    }
    if recipe.chapter == "ptd":
        kept = [recipe.kept_tokens(epoch) for epoch in range(recipe.epochs)]
        figures["drop_schedule"] = drop_figure(recipe.schedule, recipe.epochs, recipe.vit.patch_tokens, stamp, kept)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{recipe.chapter}_{name}.png")


def _line(axes, records: list[EpochRecord], name: str, label: str, colour: str, style: str) -> None:
    """One quantity over the epochs in which it was measured; nothing at all if it never was."""
    points = [(record.epoch + 1, getattr(record, name)) for record in records]
    points = [(epoch, value) for epoch, value in points if value == value]
    if points:
        marker = "o" if len(points) < 3 else None
        axes.plot(*zip(*points), linestyle=style, color=colour, label=label, marker=marker)


def _finish(axes) -> None:
    axes.grid()
    axes.xaxis.get_major_locator().set_params(integer=True)  # there are no half epochs
    axes.legend()
