"""The recipe is what the parameters cell says, whatever types its values have and however often it runs."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from papermill.iorw import read_yaml_file
from papermill.parameterize import parameterize_notebook

from ptd_core.chapter import notebook
from ptd_core.errors import RecipeError
from ptd_core.recipe import Recipe, parameters_cell


def start(namespace: dict | None = None) -> tuple[dict, object]:
    """A kernel whose first cell and parameters cell have run."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    namespace["before"] = notebook.names(namespace)
    exec(parameters_cell(), namespace)
    return namespace, namespace["before"]


def read(chapter: str = "ptd", **given) -> Recipe:
    namespace, before = start()
    namespace.update(given)
    return notebook.read_recipe(namespace, before, chapter)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("out_dir", Path("/tmp/mine"), "/tmp/mine"),
        ("data_dir", Path("cifar"), "cifar"),
        ("epochs", np.int64(3), 3),
        ("epochs", np.uint8(3), 3),
        ("epochs", torch.tensor(3), 3),
        ("epochs", np.float64(3.0), 3),
        ("epochs", 10.0, 10),
        ("epochs", "1e1", 10),
        ("epochs", "12", 12),
        ("lr", np.float32(1e-3), float(np.float32(1e-3))),
        ("lr", np.float64(1e-3), 1e-3),
        ("lr", "4e-4", 4e-4),
        ("flip", np.bool_(False), False),
        ("flip", "false", False),
        ("flip", "True", True),
        ("dataset", np.str_("cifar100"), "cifar100"),
        ("drop_final", Decimal("0.2"), 0.2),
        ("drop_final", Fraction(1, 5), 0.2),
        ("compilation", False, "off"),  # `off` in YAML 1.1
        ("stem_stride", np.int32(2), 2),
    ],
)
def test_values_of_other_types_are_taken_as_what_they_are(name, value, expected):
    taken = getattr(read(**{name: value}), name)
    assert taken == expected and type(taken) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", range(3)),
        ("epochs", 10.5),
        ("epochs", np.float64("inf")),
        ("epochs", True),
        ("epochs", np.bool_(True)),
        ("epochs", np.array([3])),
        ("epochs", object()),
        ("epochs", len),
        ("run", None),
        ("run", False),
        ("run", np.int64(5)),
        ("batch_size", b"32"),
        ("flip", 1),
        ("flip", "maybe"),
        ("lr", Decimal("NaN")),
        ("precision", True),
        ("drop_finl", np.float32(0.1)),
        ("drop_finl", object()),
        ("batchsize", torch.tensor(3)),
        ("learning_rate", 1e-3),
    ],
)
def test_anything_else_that_a_parameter_was_given_is_refused(name, value):
    with pytest.raises(RecipeError, match=name):
        read(**{name: value})


def test_names_that_are_no_parameters_are_left_alone():
    import random as epoch  # a module under a name like a parameter's

    def seeds():
        return 0

    assert read(PAPERMILL_OUTPUT_PATH="out.ipynb", np=np, epoch=epoch, seeds=seeds, _note=3) == Recipe()


def test_second_run_in_one_kernel_reads_what_the_cell_says_then():
    namespace, before = start()
    namespace.update(epochs=4, out_dir="/tmp/first", lr=1e-4)
    notebook.read_recipe(namespace, before, "ptd")
    namespace.update(recipe=1, last=3, rows=[], keep=5, dataset=object())  # what the teaching cells leave
    namespace, before = start(namespace)
    namespace.update(epochs=3)
    assert notebook.read_recipe(namespace, before, "ptd") == Recipe(epochs=3)


def test_a_line_that_was_deleted_does_not_count_in_the_second_run():
    namespace, before = start()
    namespace.update(drop_final=0.2)
    notebook.read_recipe(namespace, before, "ptd")
    namespace["before"] = before = notebook.names(namespace)
    namespace.update(drop_final=0.0, epochs=3)  # the baseline's cell, shortened to what its reader wanted
    assert notebook.read_recipe(namespace, before, "baseline") == Recipe(drop_final=0.0, epochs=3)


def test_a_misspelt_name_is_refused_again_until_it_is_mended():
    namespace, before = start()
    for _ in range(2):
        namespace["drop_finl"] = namespace["width_of_net"] = 0.1
        with pytest.raises(RecipeError, match=r"(?s)drop_finl.*width_of_net"):
            notebook.read_recipe(namespace, before, "ptd")
        namespace, before = start(namespace)
    assert notebook.read_recipe(namespace, before, "ptd") == Recipe()


def test_reading_again_without_the_first_cell_still_finds_misspelt_names():
    namespace, before = start()
    notebook.read_recipe(namespace, before, "ptd")
    namespace.update(last=3, rows=[], tokens=64)
    exec(parameters_cell(epochs=2), namespace)
    assert notebook.read_recipe(namespace, before, "ptd").epochs == 2
    namespace["drop_finl"] = 0.1
    with pytest.raises(RecipeError, match="drop_finl"):
        notebook.read_recipe(namespace, before, "ptd")


@pytest.mark.parametrize(
    "text",
    ["run: 2025-11-25", "compilation: off", "epochs: 1e1", "epochs: 10.0", "lr: 4e-4", "flip: no", "run: 'off'"],
)
def test_a_file_means_the_same_to_papermill(tmp_path, text):
    """papermill reads the file itself and writes the values into a cell."""
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(parameters_cell())])
    book.cells[0].metadata.tags = ["parameters"]
    book.metadata.papermill = {}
    book.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    injected = parameterize_notebook(book, read_yaml_file(str(path))).cells[-1].source
    namespace = {}
    before = notebook.names(namespace)
    exec(injected, namespace)
    assert notebook.read_recipe(namespace, before, "ptd") == Recipe.from_yaml(path)


def test_the_chapter_of_all_tokens_names_the_settings_that_drop():
    steps = {"drop_shape": "steps", "drop_stages": ".4/1 at 80/20", "drop_final": 0.0}
    with pytest.raises(RecipeError, match=r"drop_stages = \.4/1 at 80/20: .*leave out drop_shape and drop_stages"):
        read("baseline", **steps)
    with pytest.raises(RecipeError, match=r"drop_init = 0\.0, drop_final = 0\.35: .*set both to 0"):
        read("baseline", drop_final=0.35)
    assert read("baseline", drop_init=0.0, drop_final=0.0).chapter == "baseline"
