"""The chapter of the evidence: rebuilt from published records, and with a question run again at a tiny size."""

import re

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from ptd_core.chapter.answers import RECORDS, answer
from ptd_core.chapter.evidence import Again, read_again
from ptd_core.chapter.judging import VERDICTS
from ptd_core.chapter.namespace import names
from ptd_core.errors import PTDError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.views.evidence import Arm, pays_figure

pytestmark = pytest.mark.usefixtures("forked_kernels")
CHAPTER = PROJECT_ROOT / "book" / "evidence.ipynb"
TINY = "dataset=shapes image_size=16 subset=128 test_subset=20 epochs=2 stem_width=4 embed_dim=16 num_heads=2 depth=1"
TINY += " epoch_images=0 drop_start=0 drop_end=1"


def executed(folder, **parameters):
    papermill.execute_notebook(CHAPTER, folder / "out.ipynb", parameters=parameters, progress_bar=False)
    book = nbformat.read(folder / "out.ipynb", as_version=4)
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(outputs, kind):
    return [data[kind] for output in outputs if kind in (data := output.get("data", {}))]


def test_its_parameters_cell_is_what_it_reads():
    book = nbformat.read(CHAPTER, as_version=4)
    (cell,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    expected = [
        f"{name}: {field.annotation.__name__} = {field.default!r}".replace("'", '"') + f"  # {field.description}"
        for name, field in Again.model_fields.items()
    ]
    assert cell.source.splitlines() == expected


def test_it_shows_what_is_published(tmp_path):
    outputs = executed(tmp_path)
    texts = shown(outputs, "text/markdown")
    questions = [text for text in texts if text.startswith("```text\n")]
    assert len(questions) == 12 and all(text.endswith("runs are recorded.") for text in questions)
    (ledger,) = [text for text in texts if "| verdict |" in text and "original" in text]
    assert all(line.rsplit(" | ", 1)[1].removesuffix(" |") in VERDICTS for line in ledger.splitlines()[2:])
    with_effects = (
        "own_effect", "direction", "steeper", "confirm", "confirm_in_block_1", "scores", "place", "curriculum",
        "transfer",
    )  # fmt: skip
    drawn = sum(bool(answer(name).effects) for name in with_effects)
    drawn += sum(bool(answer(name).runs) for name in ("control", "direction", "steeper"))
    drawn += sum((RECORDS / name).exists() for name in ("feedback/feedback.csv", "fewer_tokens/evaluation.csv"))
    assert len(shown(outputs, "image/png")) == drawn


@pytest.mark.slow
def test_a_question_is_run_again(tmp_path):
    outputs = executed(tmp_path, question="feedback", out_dir=str(tmp_path), changes=TINY)
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "6 of 6 runs are finished" in printed
    assert any("All 6 runs are recorded." in text for text in shown(outputs, "text/markdown"))
    assert len({path.parent.name for path in (tmp_path / "runs").glob("*/run.json")}) == 6


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"qestion": "control"}, "qestion = 'control' is not a parameter; did you mean question?"),
        ({"question": "speeed"}, "must be one of control"),
        ({"workers": 0}, "workers should be greater than or equal to 1; got 0"),
        ({"question": "control", "changes": "epoch=2"}, "epoch = '2' is not a parameter; did you mean epochs?"),
        ({"question": "control", "changes": "lr=1e-3"}, "lr is set by arm"),
    ],
)
def test_bad_parameters_are_refused(parameters, words):
    namespace = {"os": pytest}
    before = names(namespace, Again.model_fields)
    with pytest.raises(PTDError, match=re.escape(words)):
        read_again({**namespace, **parameters}, before)


def test_a_misspelt_parameter_stops_the_chapter(tmp_path):
    with pytest.raises(PapermillExecutionError, match="did you mean question"):
        executed(tmp_path, qestion="control")


def test_the_picture_joins_all_tokens_and_shows_every_seed():
    arms = [
        Arm("all_tokens", 1.0, [40.0, 41.0], True),
        Arm("ptd", 0.9, [40.5, 41.5, 42.0], False),
        Arm("all_tokens_6", 0.5, [30.0], True),
    ]
    (axes,) = pays_figure(arms, "stamp").axes
    line = axes.lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.5, 1.0], [30.0, 40.5])
    points = sorted(value for drawn in axes.lines if drawn.get_marker() == "." for value in drawn.get_ydata())
    assert points == sorted(value for arm in arms for value in arm.accuracies)
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == [
        "all tokens, by epochs", "ptd (n = 3)"
    ]  # fmt: skip


def test_many_arms_have_a_mark_each():
    arms = [Arm(str(number), 0.5, [1.0, 2.0], False) for number in range(23)]
    (axes,) = pays_figure(arms).axes
    assert len(axes.get_legend_handles_labels()[1]) == 23
