"""Both explorers in a notebook: written beside the run's figures and shown where the cell stands."""

from io import BytesIO

import ipywidgets
import torch
from IPython.display import HTML, display
from torch import nn

from ptd_core.chapter.given import given_scores
from ptd_core.data.dataset import Split
from ptd_core.data.image_folder import read_image
from ptd_core.errors import DataError
from ptd_core.load import load_weights
from ptd_core.recipe import Recipe
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.files import write_atomically
from ptd_core.run import Run
from ptd_core.trainer import build_model
from ptd_core.views.dropping import Dropping
from ptd_core.views.explorers import Shown, frame, images_that_fit, saliency_page, schedule_page
from ptd_core.vits.weights import begin_with

UNTRUSTED = (
    "The chapter also saves this explorer as <code>{name}</code> among the run's figures. Where it is not shown here, "
    "the notebook is not trusted yet: open that file, or choose <em>Trust Notebook</em> in the command palette."
)


def drop_explorer(recipe: Recipe, num_classes: int) -> HTML:
    """Sliders for the curriculum: d(t), k(t), the operations saved, and the settings as YAML."""
    return _framed(schedule_page(recipe, num_classes), "ptd_schedule_explorer.html")


def saliency_explorer(run: Run, others: dict[str, nn.Module] | None = None) -> HTML:
    """Test images with the scores of every block and head, kept tokens and answers; the run's own score first.

    Beside the run's own weights stand those after its first epoch, those it started from, and `others`, by label:
    models of the same shape, such as `load_model` gives.
    Writes this page, and in the chapter ptd that of `drop_explorer`, beside the run's figures.
    """
    models = _models(run, others or {})
    shown = run.trainer.test.part(images_that_fit(run.recipe, len(models)))
    names = [run.dataset.classes[label] for label in shown.labels.tolist()]
    page = _saliency_page(run, Shown(shown, names, [True] * len(names)), models)
    file = run.folder / f"{run.recipe.chapter}_saliency_explorer.html"
    write_atomically(file, page.encode())
    if run.recipe.chapter == "ptd":
        schedule = schedule_page(run.recipe, run.trainer.classes)
        write_atomically(file.with_name("ptd_schedule_explorer.html"), schedule.encode())
    return _framed(page, file.name)


def own_image(run: Run) -> ipywidgets.Widget:
    """Choose image files of your own and see them in the saliency explorer. This needs a live kernel."""
    upload = ipywidgets.FileUpload(accept="image/*", multiple=True, description="own image")
    output = ipywidgets.Output()

    def show(change):
        files = {file["name"]: file["content"] for file in change["new"]}
        if not files:
            return
        output.clear_output(wait=True)
        with output:
            try:
                display(HTML(frame(own_page(run, files), "Cut to a square and reduced to the model's size.")))
            except DataError as error:
                print(error)

    upload.observe(show, names="value")
    return ipywidgets.VBox([upload, output])


def own_page(run: Run, files: dict[str, bytes | memoryview]) -> str:
    """The saliency explorer's page for image files by name. Raises DataError for a file that is no image."""
    side = run.recipe.image_size
    images = [torch.tensor(read_image(BytesIO(content), side, name)) for name, content in files.items()]
    unknown = torch.full((len(images),), -1)
    return _saliency_page(
        run, Shown(Split(torch.stack(images), unknown), list(files), [False] * len(files)), _models(run, {})
    )


def _models(run: Run, others: dict[str, nn.Module]) -> dict[str, nn.Module]:
    device = run.trainer.device
    models = {f"after epoch {len(run.records)}": run.model}
    models |= {label: model.to(device) for label, model in others.items()}
    start = build_model(run.recipe, run.trainer.classes)
    begin_with(start, run.recipe.weights, run.recipe.vit.adapted)
    if Checkpoints(run.folder).weights_after(1).exists() and len(run.records) > 1:
        models["after epoch 1"] = load_weights(run.folder, run.record, 1).to(device)
    return {**models, "before training" if run.recipe.weights else "untrained": start.to(device)}


def _saliency_page(run: Run, shown: Shown, models: dict[str, nn.Module]) -> str:
    inputs = run.trainer.normalise(shown.split.images.to(run.trainer.device).float() / 255)
    given = given_scores(run, models, shown.split, inputs)
    return saliency_page(Dropping.of(run.recipe), shown, models, inputs, run.dataset.classes, run.stamp, given)


def _framed(page: str, name: str) -> HTML:
    return HTML(frame(page, UNTRUSTED.format(name=name)))
