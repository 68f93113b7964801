"""The chapters: paired, empty of outputs, with parameters that papermill lists, and running from where readers run."""

import json
import re
import subprocess
import sys

import jupytext
import nbformat
import papermill
import pytest
from conftest import TINY

from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.recipe import Recipe, parameters_cell

BOOK = ROOT / "book"
CHAPTERS = {  # and where their parameters differ from a recipe's
    "baseline": {"drop_final": 0.0},
    "ptd": {},
    "space": {
        "subset": 2000, "test_subset": 500, "drop_final": 0.5, "drop_start": 0, "drop_shape": "flat", "epochs": 5,
        "batch_size": 32, "eval_every": 5,
    },
    "your_vit": {
        "dataset": "folder", "data_dir": "data/shapes_as_images", "subset": 0, "test_subset": 0, "drop_block": 1,
        "drop_shape": "steps", "drop_stages": ".5/.75/1 at 45/40/15", "epochs": 8, "batch_size": 32, "eval_every": 8,
    },
}  # fmt: skip


ALL = [*CHAPTERS, "evidence"]  # which trains nothing of its own


def chapter_notebook(chapter):
    return nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)


def test_all_chapters_are_known_here():
    assert {path.stem for path in BOOK.glob("*.ipynb")} == {path.stem for path in BOOK.glob("*.py")} == set(ALL)


@pytest.mark.parametrize("chapter", ALL)
def test_notebook_and_script_are_the_same_chapter(chapter):
    notebook, script = chapter_notebook(chapter), jupytext.read(BOOK / f"{chapter}.py")

    def cells(book):
        return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in book.cells]

    assert cells(notebook) == cells(script)
    assert notebook.metadata.kernelspec.name == script.metadata.kernelspec.name == "python3"
    # The pairing stands in jupytext.toml alone: a saved papermill output must not grow a script of its own.
    assert "formats" not in notebook.metadata.get("jupytext", {})


@pytest.mark.parametrize("chapter", ALL)
def test_notebook_holds_no_outputs(chapter):
    for cell in chapter_notebook(chapter).cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert set(cell.metadata) <= {"tags"}


@pytest.mark.parametrize(("chapter", "defaults"), CHAPTERS.items())
def test_parameters_cell_is_the_recipe(chapter, defaults):
    (cell,) = [cell for cell in chapter_notebook(chapter).cells if "parameters" in cell.metadata.get("tags", [])]
    assert cell.source == parameters_cell(**defaults)


@pytest.mark.parametrize(("chapter", "defaults"), CHAPTERS.items())
def test_papermill_lists_every_parameter_with_its_help(chapter, defaults):
    listed = papermill.inspect_notebook(str(BOOK / f"{chapter}.ipynb"))
    assert list(listed) == list(Recipe.model_fields)
    for name, field in Recipe.model_fields.items():
        assert listed[name]["help"] == field.description
        value = json.loads(listed[name]["default"].replace("True", "true").replace("False", "false"))
        assert value == defaults.get(name, field.default)


@pytest.fixture(params=["baseline", "ptd"])
def ran(request, tmp_path):
    """A chapter's name, and the notebook that papermill wrote: from the root, and by its command from its folder."""
    if request.param == "ptd":
        return "ptd", request.getfixturevalue("executed")
    request.getfixturevalue("forked_kernels")
    parameters = {**TINY, **CHAPTERS["baseline"], "out_dir": str(tmp_path), "run": "tiny"}
    execute("baseline", tmp_path / "out.ipynb", parameters, cwd=ROOT)
    return "baseline", tmp_path / "out.ipynb"


def execute(chapter, out, parameters, **options):
    book = f"{chapter}.ipynb" if isinstance(chapter, str) else chapter
    papermill.execute_notebook(BOOK / book, out, parameters=parameters, progress_bar=False, **options)


def test_chapter_runs_from_the_root_and_from_its_folder(ran):
    chapter, out = ran
    book = nbformat.read(out, as_version=4)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 5
    assert "application/vnd.jupyter.widget-view+json" not in kinds  # blank once the kernel is gone
    pages = [data for output in outputs if "<iframe srcdoc" in (data := output.get("data", {}).get("text/html", ""))]
    assert len(pages) == {"baseline": 1, "ptd": 2}[chapter]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert text.count("epoch   ") == 3 and "estimate" not in text.split("epoch   1/3")[1]  # one line an epoch
    made = {path.name for path in (out.parent / "runs" / "tiny").iterdir()}
    assert {f"{chapter}_saliency.png", f"{chapter}_accuracy.png", "run.json"} <= made
    assert {f"{chapter}_saliency_explorer.html", *(["ptd_schedule_explorer.html"] * (chapter == "ptd"))} <= made


def test_run_all_twice_in_one_kernel_trains_what_the_cells_say_then(tmp_path, forked_kernels):
    """The second time with other values in the parameters cell; then the recipe is read once more from there on."""
    book, again = chapter_notebook("ptd"), chapter_notebook("ptd")
    for cell in again.cells:
        cell["id"] += "-again"
    (cell,) = [cell for cell in again.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.metadata.tags = []
    cell.source = parameters_cell(
        **{**TINY, "out_dir": str(tmp_path), "epochs": 2, "drop_final": 0.2, "drop_hold": False}
    )
    last = nbformat.v4.new_code_cell(
        f"{cell.source}\nassert notebook.read_recipe(globals(), before, chapter='ptd') == recipe == done.recipe\n"
        "assert (recipe.epochs, recipe.drop_final, recipe.drop_hold, len(done.records)) == (2, 0.2, False, 2)"
    )
    book.cells += [*again.cells, last]
    nbformat.write(book, tmp_path / "twice.ipynb")
    parameters = {**TINY, "out_dir": str(tmp_path), "epochs": 1}
    execute(tmp_path / "twice.ipynb", tmp_path / "out.ipynb", parameters)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_chapter_of_the_space_shows_methods_and_trains_points(tmp_path, forked_kernels):
    """On a model with two blocks, which leaves some methods out, and a recipe that the oracle cannot have."""
    book = chapter_notebook("space")
    again = 'assert notebook.read_recipe(globals(), before, chapter="space") == recipe'
    book.cells.append(nbformat.v4.new_code_cell(again))
    nbformat.write(book, tmp_path / "space.ipynb")
    parameters = {**TINY, "epochs": 2, "drop_shape": "flat", "out_dir": str(tmp_path), "run": "tiny"}
    execute(tmp_path / "space.ipynb", tmp_path / "out.ipynb", parameters)
    book = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "left out: EViT (evit.yaml" in text and "left out: oracle (" in text
    assert "4 methods on shapes, 64 patch tokens, 2 blocks" in text
    trained = ("all_tokens", "class_attention", "centre", "random")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {f"tiny_{name}" for name in trained}
    first = tmp_path / "runs" / "tiny_all_tokens"
    assert {path.stem for path in first.glob("space_*.png")} == {
        f"space_{name}" for name in ("scores", "shares", "choices", "methods", "points")
    }
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 9
    (methods,) = [data["text/markdown"] for output in outputs if "text/markdown" in (data := output.get("data", {}))]
    assert [line.split(" | ")[0] for line in methods.splitlines()[2:]] == ["| PatchDropout", "| PSS", "| PTD", "| ToMe"]
    assert sum("<iframe srcdoc" in output.get("data", {}).get("text/html", "") for output in outputs) == 1


@pytest.mark.parametrize(
    ("chapter", "parameters", "words"),
    [
        ("ptd", {"drop_finl": 0.3}, "drop_finl = 0.3 is not a parameter; did you mean drop_final?"),
        ("ptd", {"epochs": 0}, "epochs should be greater than or equal to 1; got 0"),
        ("baseline", {"drop_final": 0.35}, "this chapter trains with all tokens"),
        ("ptd", {"dataset": "cifar100", "data_dir": "nowhere", "download": False}, "nowhere"),
    ],
)
def test_bad_parameters_fail_the_notebook(chapter, parameters, words, tmp_path, forked_kernels):
    with pytest.raises(papermill.PapermillExecutionError, match=re.escape(words)):
        execute(chapter, tmp_path / "out.ipynb", {**parameters, "out_dir": str(tmp_path)})
    assert not (tmp_path / "runs").exists()


def test_a_notebook_that_fails_fails_the_command(tmp_path):
    command = [sys.executable, "-m", "papermill", "book/ptd.ipynb", tmp_path / "out.ipynb", "-p", "drop_finl", "0.3"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert "drop_finl = 0.3 is not a parameter; did you mean drop_final?" in result.stderr
