"""python -m ptd_core.evaluate: finished runs in, a table and a picture out."""

import dataclasses
import math

import pytest

from ptd_core.cost import cost
from ptd_core.errors import OutputError
from ptd_core.evaluate.__main__ import evaluate_runs, main
from ptd_core.evaluation import table
from ptd_core.machine.clock import Timing
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.run import execute
from ptd_core.token_drop import TokenDrop
from ptd_core.views.fewer_tokens import fewer_tokens_figure


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a run with token drop and one without."""
    from conftest import TINY

    from ptd_core.recipe import Recipe

    folder = tmp_path_factory.mktemp("runs")
    shared = {**TINY, "out_dir": str(folder), "epochs": 1, "drop_end": 0}
    made = [
        execute(Recipe(**{**shared, "run": f"ptd_seed{seed}", "seed": seed})) for seed in (0, 1)
    ] + [execute(Recipe(**{**shared, "run": "baseline", "drop_final": 0.0}))]  # fmt: skip
    return [run.folder for run in made], made


def test_all_tokens_give_what_the_run_recorded(runs):
    folders, made = runs
    rows = evaluate_runs(folders, ["keep=1,.5"])
    assert [(row.run, row.cell, row.seed, row.kept) for row in rows] == [
        (run, cell, seed, kept)
        for run, cell, seed in [("ptd_seed0", "ptd", 0), ("ptd_seed1", "ptd", 1), ("baseline", "baseline", 0)]
        for kept in (64, 32)
    ]  # fmt: skip
    assert [row.accuracy for row in rows[::2]] == [run.record.results.test_accuracy for run in made]
    vit = made[0].recipe.vit
    assert rows[1].predicted == cost(vit, 10).forward / cost(vit, 10, TokenDrop(), (32,)).forward
    assert math.isnan(rows[0].faster) and rows[0].predicted == 1


def test_the_command_prints_means_and_keeps_every_run(runs, tmp_path, capsys):
    folders, _ = runs
    arguments = [*map(str, folders), str(folders[0]), "keep=1,.5", "drop_score=random,class_attention"]
    assert main([*arguments, "--rounds", "1", "--images", "30", "--to", str(tmp_path / "new" / "folder")]) == 0
    printed = capsys.readouterr().out
    rows = table.read(tmp_path / "new" / "folder")
    assert len(rows) == 3 * 2 * 2 and {row.images for row in rows} == {30}
    lines = printed.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 2 * (1 + 2)  # all tokens once for each cell
    two = [row.accuracy for row in rows if row.cell == "ptd" and row.score == "random" and row.kept == 32]
    mean, half = sum(two) / 2, abs(two[0] - two[1]) / 2**0.5
    assert f"| ptd, random | 32 | 0, 1 | {mean:.2f} ± {half:.2f} % |" in printed
    timed = [row.run for row in rows if not math.isnan(row.images_per_second)]
    assert set(timed) == {"ptd_seed0", "baseline"}  # the first run of each cell
    assert (tmp_path / "new" / "folder" / "evaluation.png").read_bytes()[:4] == b"\x89PNG"


def test_speed_is_that_of_all_tokens_over_each_way(runs, monkeypatch):
    """A way with k tokens takes k seconds here."""
    seconds = {}

    def interleave(cases, rounds, device):
        for case in cases:
            seconds[case] = float(case.kept) if case else 64.0
        return {case: Timing([seconds[case]] * rounds, seconds[case]) for case in cases}

    monkeypatch.setattr("ptd_core.evaluation.ways.interleave", interleave)
    rows = evaluate_runs(runs[0][:1], ["keep=1,.5,.25"], rounds=3)
    assert [(row.kept, row.faster, row.images_per_second) for row in rows] == [
        (64, 1, 32 / 64), (32, 2, 32 / 32), (16, 4, 32 / 16),
    ]  # fmt: skip


def test_rows_read_back_as_they_were(runs, tmp_path):
    rows = evaluate_runs(runs[0][:1], ["keep=1,.8,.6", "drop_method=token_drop,tome"])
    table.write(rows, tmp_path)
    again = table.read(tmp_path)
    assert [repr(row) for row in again] == [repr(row) for row in rows]  # NaN equals NaN as text
    (tmp_path / table.FILE).write_text("run,cell\na,b\n")
    with pytest.raises(OutputError, match="cannot be read as a table of evaluations"):
        table.read(tmp_path)


def test_the_picture_has_every_run_as_a_point_and_blocks_where_they_are_compared(runs):
    rows = evaluate_runs(runs[0][:2], ["keep=1,.5,.25"])
    accuracy, share = fewer_tokens_figure(rows).axes
    points = [line for line in accuracy.lines if line.get_linestyle() == "None"]
    assert {tuple(line.get_xdata()): list(line.get_ydata()) for line in points} == {
        (kept, kept): [row.accuracy for row in rows if row.kept == kept] for kept in (64, 32, 16)
    }  # fmt: skip
    assert share.get_xlabel() == "kept patch tokens" and "object" in share.get_ylabel()
    rows = evaluate_runs(runs[0][:2], ["keep=1,.5", "drop_block=0,1"])
    figure = fewer_tokens_figure(rows)
    assert figure.axes[-1].get_xlabel() == "block that drops tokens" and list(figure.axes[0].get_xticks()) == [0, 1]


def test_each_way_of_training_has_a_column_and_each_way_of_evaluating_one_look(runs):
    rows = evaluate_runs(runs[0][:1], ["keep=1,.5", "drop_score=class_attention,random"])
    one, other = (
        [dataclasses.replace(row, cell=cell, object_kept=math.nan) for row in rows] for cell in ("one", "other")
    )
    rows = one + other[::-1]  # whose ways come in another order
    figure = fewer_tokens_figure(rows)
    assert [axes.get_title() for axes in figure.axes] == ["one", "other"]
    looks = [
        {
            line.get_label(): (line.get_color(), line.get_marker())
            for line in axes.lines
            if line.get_linestyle() != "None"
        }
        for axes in figure.axes
    ]
    assert looks[0] == looks[1] and len(set(looks[0].values())) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["class_attention", "random"]


def test_ways_stay_apart_where_no_row_has_all_tokens(runs):
    rows = evaluate_runs(runs[0][:1], ["keep=.5", "drop_score=class_attention,random"])
    lines = table.markdown(rows).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| class_attention", "| random"]
    (panel, _) = fewer_tokens_figure(evaluate_runs(runs[0][:1], ["keep=.5", "drop_block=0,1"])).axes
    assert [list(line.get_xdata()) for line in panel.lines if line.get_linestyle() != "None"] == [[0, 1]]


def test_ways_that_differ_in_another_block_are_no_seeds_of_one(runs):
    rows = evaluate_runs(runs[0][:1], ["keep=.5", "drop_fate=bypass", "drop_until=1,2"])
    assert [row.fate for row in rows] == ["bypass until block 1", "bypass until block 2"]
    rows = evaluate_runs(runs[0][:1], ["keep=.5", "drop_score=averaged_attention", "drop_score_block=0,1"])
    assert list(table.names(rows).values()) == ["averaged_attention of block 0", "averaged_attention of block 1"]
    assert [len(groups) for groups in table.lines(rows).values()] == [1, 1]


def test_names_say_what_differs(runs):
    row = evaluate_runs(runs[0][:1], ["keep=.5"])[0]
    other = dataclasses.replace(row, fate="fuse", blocks="1")
    assert list(table.names([row]).values()) == ["class_attention"]
    assert list(table.names([row, other]).values()) == [
        "class_attention, discard, block 0",
        "class_attention, fuse, block 1",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["keep=.5"], "name at least one run's folder"),
        (["nowhere"], "nowhere: holds neither a run.json"),
        (["RUN", "keep=2,nine"], "keep = 'nine'"),
        (["RUN", "keep=1", "keep=.5"], "keep is given twice"),
        (["RUN", "drop_score=oracel"], "did you mean oracle"),
        (["RUN", "device=cuda:99"], "device = 'cuda:99'"),
        (["RUN", "--to", "RUN/run.json/sub"], "cannot be made"),
        (["RUN", "--rounds", "0", "keep=nine"], "keep = 'nine'"),
        (["TABLES"], "holds the tables of several runs, but no weights; name their own folders"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(runs, capsys, arguments, said):
    tables = ROOT / "figures" / "evidence" / "control"
    whole = [text.replace("RUN", str(runs[0][0])).replace("TABLES", str(tables)) for text in arguments]
    assert main(whole) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_other_images_and_other_weights_are_refused(runs, tmp_path, monkeypatch):
    folders, made = runs
    file = folders[2] / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OutputError, match="cannot be read as the weights of baseline"):
        evaluate_runs(folders[2:], ["keep=1"])
    file.write_bytes(whole)
    other = dataclasses.replace(made[0].dataset, classes=tuple("abcdefghij"))
    monkeypatch.setattr("ptd_core.recipe.parts.load", lambda *arguments, **options: other)
    with pytest.raises(OutputError, match="other images"):
        evaluate_runs(folders[:1], ["keep=1"])
