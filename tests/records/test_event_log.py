"""TensorBoard's own reader finds every recorded value once, also after a run was stopped and resumed."""

import math
import sys
from pathlib import Path

import pytest
from conftest import Lines
from ranked import run, run_in_pieces, together

from ptd_core.__main__ import main
from ptd_core.errors import RecipeError
from ptd_core.machine.ranks import Ranks
from ptd_core.records.history import FIELDS, history_file, read_csv
from ptd_core.run import execute


def points(folder):
    """{(tag, epoch): every value that is there}, by TensorBoard."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader", reason="no tensorboard")
    found = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.simple_value)
    return found


def recipe_folder(recipe):
    return Path(recipe.out_dir) / "runs" / recipe.run_name


def expected(records):
    return {
        (name, record.epoch): [pytest.approx(value, rel=1e-6)]
        for record in records
        for name, value in {**vars(record), **record.extra}.items()
        if name not in ("epoch", "extra") and not math.isnan(value)
    }


def test_every_column_has_a_point_an_epoch(tiny, tiny_shapes):
    recipe = tiny(log="tensorboard", eval_every=2)
    done = execute(recipe, Lines(), dataset=tiny_shapes, probes=(lambda trainer: {"one more": 2.0},))
    found = points(done.folder)
    assert found == expected(done.records)
    assert {tag for tag, _ in found} == {*FIELDS, "one more"} - {"epoch"}
    assert not any(epoch == 0 for tag, epoch in found if tag == "test_accuracy")  # was not evaluated


@pytest.mark.parametrize("cuts", [[(1, 2)], [(0, 5), (1, 1), (2, 5)]])
def test_a_resumed_run_has_each_point_once(tiny, cuts):
    recipe = tiny(log="tensorboard")
    run_in_pieces(Ranks(), recipe, cuts)
    folder = recipe_folder(recipe)
    assert points(folder) == expected(read_csv(history_file(folder, recipe.chapter)))


def test_a_run_may_begin_to_log_when_it_is_resumed(tiny):
    recipe = tiny(log="tensorboard")
    assert run(Ranks(), recipe.replace(log="none"), (1, 2))
    folder = recipe_folder(recipe)
    assert not (folder / "tensorboard").exists()
    assert not run(Ranks(), recipe)
    assert points(folder) == expected(read_csv(history_file(folder, recipe.chapter)))


@pytest.mark.slow
def test_one_of_several_processes_writes(tiny):
    recipe = tiny(log="tensorboard")
    together(run_in_pieces, recipe, [])
    folder = recipe_folder(recipe)
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert points(folder) == expected(read_csv(history_file(folder, recipe.chapter)))


def test_without_the_package_it_is_refused_before_anything_is_read(tiny, monkeypatch, tmp_path, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard" or "utils.tensorboard" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RecipeError, match="the package tensorboard is not installed"):
        execute(tiny(log="tensorboard"), Lines())
    assert not (tmp_path / "runs").exists()
    file = tmp_path / "recipe.yaml"
    file.write_text(f"log: tensorboard\nout_dir: {tmp_path}\n")
    assert main([str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("RecipeError: log = 'tensorboard': the package tensorboard is not installed; pip install")
