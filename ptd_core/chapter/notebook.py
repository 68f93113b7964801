"""What a chapter needs beyond the library: parameters read from its cells, code and tables shown."""

import inspect
from collections.abc import Callable

from IPython.display import Code, Markdown
from matplotlib.figure import Figure

from ptd_core.chapter.claims import claims_markdown
from ptd_core.chapter.namespace import names, read_recipe
from ptd_core.cost import run_training_cost
from ptd_core.evaluation.attention_maps import attention_maps
from ptd_core.progress import duration
from ptd_core.run import Run
from ptd_core.saliency import kept_mask, object_coverage
from ptd_core.views.maps import coverage_figure, saliency_figure
from ptd_core.views.style import save_figure

__all__ = [
    "claims",
    "coverage",
    "names",
    "read_recipe",
    "results",
    "saliency",
    "show_code",
    "table",
    "time_saved",
]


def show_code(*functions: Callable) -> Code:
    """The source of functions as it runs, with colours."""
    return Code("\n\n".join(inspect.getsource(function).rstrip() for function in functions), language="python")


def table(header: list[str], rows: list[list]) -> Markdown:
    """Rows of values under a header."""
    lines = [header, ["---"] * len(header), *rows]
    return Markdown("\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines))


def results(run: Run) -> Markdown:
    """What a run measured, as a table."""
    last, result, times = run.records[-1], run.record.results, run.record.times
    rows = {
        "test accuracy, last epoch": f"{result.test_accuracy:.2f} %",
        "the same, raw weights": f"{result.test_accuracy_raw:.2f} %",
        "best epoch chosen on test (not the headline)": f"{result.best_on_test:.2f} %",
        "chance": f"{100 / len(run.dataset.classes):.2f} %",
        "training accuracy, clean images": f"{result.clean_train_accuracy:.2f} %",
        "training accuracy, augmented batch": f"{last.train_accuracy:.2f} %",
        "training time": duration(times.train_seconds),
        "evaluation time": duration(times.eval_seconds),
        "images in training, per second": f"{last.images_per_second:.0f}",
        "device": run.record.device,
    }
    return table([f"measured here, {run.recipe.run_name}, seed {run.recipe.seed}, n = 1", ""], list(rows.items()))


def time_saved(run: Run) -> Markdown:
    """Where a run's time went, and what its training gained on the same epochs with all tokens."""
    ledger = run.record.time_ledger
    recipe = run.recipe
    with_drop, without = run_training_cost(
        recipe.vit, run.trainer.classes, recipe.token_drop, recipe.keeps, recipe.sides
    )
    rows = {
        "training steps": _seconds(ledger.step_seconds),
        "augmentation": _seconds(ledger.data_seconds),
        "evaluation": _seconds(ledger.evaluation_seconds),
        "compiling and recording": _seconds(ledger.compile_seconds),
        f"the training, had no epoch dropped tokens (from {ledger.all_tokens_epochs} that did not)": _seconds(
            ledger.all_tokens_seconds
        ),
        "saved": _seconds(ledger.saved_seconds),
        "training faster by, measured": _times(ledger.measured_speedup),
        "training faster by, predicted from operations": _times(without / with_drop),
    }
    return table([f"time of {run.recipe.run_name}, {run.record.device}", ""], list(rows.items()))


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f} s"


def _times(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}x"


def saliency(run: Run, block: int, keep: int, count: int = 8) -> Figure:
    """Saliency maps of a few test images in one block, and the `keep` tokens of highest saliency; also saved."""
    shown = run.trainer.test.part(count)
    inputs = run.trainer.normalise(shown.images.float() / 255)
    answers = run.model(inputs).argmax(1).tolist()
    names = run.dataset.classes
    titles = [
        f"{names[label]}\n" + ("right" if label == answer else f"taken for {names[answer]}")
        for label, answer in zip(shown.labels.tolist(), answers)
    ]
    figure = saliency_figure(shown, attention_maps(run.model, inputs, block).mean(1), keep, titles, run.stamp)
    save_figure(figure, run.folder / f"{run.recipe.chapter}_saliency.png")
    return figure


def coverage(run: Run, keep: int, count: int = 1000) -> Figure | Markdown:
    """How much of the objects lies under kept tokens, on a part of the test images; a sentence where nobody knows."""
    shown = run.trainer.test.part(count)
    if shown.masks is None:
        return Markdown(f"*{run.dataset.name}* does not show where its objects are; *shapes* does.")
    inputs = run.trainer.normalise(shown.images.float() / 255)
    block, tokens = run.recipe.token_drop.blocks[0], run.recipe.vit.patch_tokens
    kept = kept_mask(attention_maps(run.model, inputs, block).mean(1), keep)
    print(
        f"by class attention block {block} keeps with {100 * keep / tokens:.0f} % of the tokens "
        f"{100 * object_coverage(kept, shown.masks):.0f} % of the objects' pixels (n = {len(shown)} test images)"
    )
    figure = coverage_figure(run.model, inputs, shown.masks, run.recipe.token_drop.blocks, run.stamp)
    save_figure(figure, run.folder / f"{run.recipe.chapter}_coverage.png")
    return figure


def claims() -> Markdown:
    """The original's claims and logs, as a table of their own."""
    return Markdown(claims_markdown())
