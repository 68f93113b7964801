"""What a chapter needs beyond the library: parameters read from its cells, code and tables shown."""

import inspect
from collections.abc import Callable

from IPython.display import Code, Markdown
from matplotlib.figure import Figure

from ptd_core.chapter.claims import claims_markdown
from ptd_core.chapter.given import maps_of
from ptd_core.chapter.namespace import names, read_recipe
from ptd_core.evaluation.token_maps import has_class_token
from ptd_core.progress import duration
from ptd_core.records.markdown import markdown_table
from ptd_core.run import Run
from ptd_core.saliency import object_coverage
from ptd_core.token_drop import Keep, TokenDrop
from ptd_core.views.dropping import Dropping, score_name
from ptd_core.views.maps import coverage_figure, saliency_figure
from ptd_core.views.style import save_figure

__all__ = [
    "by_attention",
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
    return Markdown(markdown_table(header, rows))


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
        "training faster by, predicted from operations": _times(run.record.model.predicted_speedup),
    }
    return table([f"time of {run.recipe.run_name}, {run.record.device}", ""], list(rows.items()))


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f} s"


def _times(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}x"


def saliency(run: Run, policy: TokenDrop | None = None, keep: Keep | None = None, count: int = 8) -> Figure:
    """Scores of a few test images in the dropping blocks, and the tokens that are kept; also saved.

    policy, keep: by default the run's own, and what its last epoch that drops would keep; a policy comes with its keep.
    """
    shown = run.trainer.test.part(count)
    inputs = run.trainer.normalise(shown.images.float() / 255)
    answers = run.model(inputs).argmax(1).tolist()
    names = run.dataset.classes
    titles = [
        f"{names[label]}\n" + ("right" if label == answer else f"taken for {names[answer]}")
        for label, answer in zip(shown.labels.tolist(), answers)
    ]
    caption = "" if policy else Dropping.of(run.recipe).sentence
    policy, keep = (policy, keep) if policy else _own_policy(run)
    maps = maps_of(run, policy, keep, shown)
    figure = saliency_figure(shown, maps, policy.score, titles, caption, run.stamp)
    save_figure(figure, run.folder / f"{run.recipe.chapter}_saliency.png")
    return figure


def coverage(run: Run, count: int = 1000) -> Figure | Markdown:
    """How much of the objects lies under kept tokens, on a part of the test images; a sentence where nobody knows.

    Kept by the run's score in its dropping blocks, as many as in its last epoch that drops.
    """
    shown = run.trainer.test.part(count)
    if shown.masks is None:
        return Markdown(f"*{run.dataset.name}* does not show where its objects are; *shapes* does.")
    dropping = Dropping.of(run.recipe)
    policy, keep = _own_policy(run)
    if dropping.own is None:
        print(dropping.sentence)
    by = score_name(policy.score) if policy.choice == "top" else f"{policy.choice} of {score_name(policy.score)}"
    for one in maps_of(run, policy, keep, shown):
        print(
            f"by {by} block {one.block} keeps with {100 * one.kept / one.kept_BGG[0].numel():.0f} % of the tokens "
            f"{100 * object_coverage(one.kept_BGG, shown.masks.cpu()):.0f} % of the objects' pixels "
            f"(n = {len(shown)} test images)"
        )
    every = TokenDrop(tuple(range(run.recipe.vit.depth)), policy.score)
    scores = [one.scores_BGG for one in maps_of(run, every, None, shown)]
    marked = policy.blocks if dropping.own else ()
    figure = coverage_figure(scores, policy.score, shown.masks.cpu(), marked, run.stamp)
    save_figure(figure, run.folder / f"{run.recipe.chapter}_coverage.png")
    return figure


def by_attention(run: Run, block: int) -> TokenDrop:
    """A policy to look by: what the class token attends to most in a block; where there is none, all patch tokens."""
    return TokenDrop((block,), "class_attention" if has_class_token(run.model) else "attention_received")


def _own_policy(run: Run) -> tuple[TokenDrop, Keep | None]:
    """The run's, with what its last epoch that drops keeps; by attention for a method without scores."""
    dropping = Dropping.of(run.recipe)
    keep = dropping.keep_at(dropping.ratio)
    if dropping.own:
        return dropping.own, keep
    return by_attention(run, run.recipe.token_drop.blocks[-1]), keep and keep[-1:]


def claims() -> Markdown:
    """The original's claims and logs, as a table of their own."""
    return Markdown(claims_markdown())
