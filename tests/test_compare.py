"""Comparing runs: grouping by recipe, mean and spread, tables of sweeps, refusals."""

import csv
import dataclasses
import json
import statistics
from pathlib import Path

import pytest

from ptd_core.compare import main
from ptd_core.errors import OutputError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.records import cells
from ptd_core.records.cells import group, read_cells, table
from ptd_core.records.finished_runs import FinishedRun, read_runs, write_epochs, write_runs
from ptd_core.records.history import EpochRecord
from ptd_core.records.ledger import time_ledger
from ptd_core.records.run_record import ModelFacts, Results, RunRecord, Times
from ptd_core.records.statistics import mean_and_sd, spread
from ptd_core.views.comparison import comparison_figure

FIGURES = PROJECT_ROOT / "figures"
SMALL_CELLS = FIGURES / "small_cells"
RECORD = EpochRecord(0, 1e-3, 0.1, 41, 2.5, 30.0, 44.0, 2.2, 40.0, 2.1, 42.5, 10.0, 0.5, 1.0, 400.0)


def record(run, seed, accuracy, drop=0.0, finished=True, precision="fp32"):
    return RunRecord(
        run=run, chapter="ptd" if drop else "baseline", seed=seed, finished=finished,
        recipe={"seed": seed, "drop_final": drop}, data="0f", device="D", versions={"torch": "2"}, commit="abc",
        precision=precision, attention="fused", compilation="off", processes=1, made="2026-01-01",
        model=ModelFacts(parameters=1, training_flops_per_image=1, training_flops=1, predicted_speedup=1.0), epochs=1,
        results=Results(
            test_accuracy=accuracy, test_accuracy_raw=accuracy, clean_train_accuracy=accuracy, best_on_test=accuracy
        ),
        times=Times.of([RECORD]), time_ledger=time_ledger([RECORD], 64),
    )  # fmt: skip


def save(folder, run, *arguments, **options):
    (folder / run).mkdir()
    record(run, *arguments, **options).write(folder / run)
    return folder / run


def test_seeds_of_one_recipe_are_one_row(tmp_path):
    folders = [save(tmp_path, "b", 1, 11.0), save(tmp_path, "p", 0, 30.0, drop=0.35), save(tmp_path, "a", 0, 10.0)]
    found = read_cells(folders)
    assert [(cell.name, cell.values("test_accuracy")) for cell in found] == [("a", [10.0, 11.0]), ("p", [30.0])]
    rows = table(found).splitlines()
    assert len(rows) == 4
    assert rows[2].startswith("| a | 0, 1 | 10.50 ± 0.71 % |") and rows[3].startswith("| p | 0 | 30.00 % |")
    points = [line.get_xdata().tolist() for line in comparison_figure(found).axes[0].lines if line.get_marker() == "o"]
    assert points == [[10.0, 11.0], [30.0]]


def test_what_is_given_twice_counts_once(tmp_path, monkeypatch):
    folders = [save(tmp_path, "a", 0, 10.0), save(tmp_path, "b", 1, 11.0)]
    (tmp_path / "link").symlink_to(folders[0])
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "run.json").write_bytes((folders[0] / "run.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    twice = [*folders, folders[0], Path("a"), tmp_path / "b" / ".." / "a", tmp_path / "link", tmp_path / "copy"]
    assert read_cells(twice) == read_cells(folders)
    assert [run.seed for run in read_cells(twice)[0].runs] == [0, 1]
    again = save(tmp_path, "again", 0, 10.5)
    with pytest.raises(OutputError, match=r"a and .*again: are one recipe with one seed, run twice"):
        read_cells([*folders, again])


def test_a_sweep_given_twice_counts_once(sweep):
    folder, _ = sweep
    assert read_cells([folder, folder / ".." / folder.name]) == read_cells([folder])


def test_precisions_are_not_mixed(tmp_path):
    runs = [save(tmp_path, "a", 0, 10.0), save(tmp_path, "b", 1, 11.0, precision="bf16")]
    assert [(cell.name, len(cell.runs)) for cell in read_cells(runs)] == [("a", 1), ("b", 1)]
    (tmp_path / "other").mkdir()
    runs = [runs[0], save(tmp_path / "other", "a", 1, 11.0, precision="bf16")]
    assert [cell.name for cell in read_cells(runs)] == ["a (fp32)", "a (bf16)"]
    rows = [FinishedRun.of(record(f"c{n}", n, 1.0, precision=p), "c") for n, p in enumerate(["fp32", "bf16", "fp32"])]
    assert [(cell.name, [run.seed for run in cell.runs]) for cell in group(rows)] == [
        ("c (fp32)", [0, 2]),
        ("c (bf16)", [1]),
    ]


def test_spread_is_the_sample_standard_deviation():
    assert spread([1.0, 2.0, 3.0, 6.0]) == "3.00 ± 2.16 %"  # sqrt((4 + 1 + 0 + 9) / 3)
    assert mean_and_sd([2.0]) == (2.0, None) and spread([2.0]) == "2.00 %"


def test_folders_without_a_finished_run_are_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds neither a run.json nor a runs.csv" in capsys.readouterr().err
    assert main([str(save(tmp_path, "x", 0, 1.0, finished=False))]) == 2
    assert "not finished" in capsys.readouterr().err
    (tmp_path / "x" / "run.json").write_text("{}")
    assert main([str(tmp_path / "x")]) == 2
    assert "run.json: is damaged (run: Field required)" in capsys.readouterr().err
    save(tmp_path, "y", 0, 1.0)
    whole = json.loads((tmp_path / "y" / "run.json").read_text())
    for change, said in (({"more": 1}, "more: Extra inputs"), ({"chapter": "x"}, "damaged (chapter: Input")):
        (tmp_path / "y" / "run.json").write_text(json.dumps({**whole, **change}))
        assert main([str(tmp_path / "y")]) == 2
        err = capsys.readouterr().err
        assert said in err and ("another version" in err) == ("more" in change) != ("delete it" in err)
    del whole["time_ledger"]
    (tmp_path / "y" / "run.json").write_text(json.dumps(whole))
    assert main([str(tmp_path / "y")]) == 2
    assert "was written by another version of this program (time_ledger: Field required)" in capsys.readouterr().err


def test_command_prints_the_table_and_draws(tmp_path, capsys):
    folder = save(tmp_path, "x", 0, 12.5)
    assert main([str(folder), "--figure", str(tmp_path / "f.png")]) == 0
    assert "| x | 0 | 12.50 % |" in capsys.readouterr().out
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_of_runs_reads_back(tmp_path, sweep):
    runs = [save(tmp_path, "x", 0, 12.5), save(tmp_path, "y", 1, 13.5)]
    assert main([*map(str, runs), "--table", str(tmp_path / "new" / "table")]) == 0
    assert read_cells([tmp_path / "new" / "table"]) == read_cells(runs)
    assert main([str(runs[0]), str(sweep[0]), "--table", str(tmp_path / "mixed")]) == 2
    assert not (tmp_path / "mixed" / "runs.csv").exists()


@pytest.fixture
def sweep(tmp_path):
    """The tables of a sweep over lr and precision, of which the latter has a column anyway."""
    (tmp_path / "sweep").mkdir()

    def row(lr, seed):
        factors = {"lr": lr, "precision": "auto"}
        return FinishedRun.of(record(f"c{lr}_seed{seed}", seed, 10 * lr + seed), f"c{lr}", "abcdef", factors)

    runs = [
        row(lr, seed)
        for seed in (1, 0)
        for lr in (0.1, 0.2)
    ]  # fmt: skip
    write_runs(runs, tmp_path / "sweep")
    probed = dataclasses.replace(RECORD, epoch=1, extra={"turnover": 0.25})
    write_epochs([(run, [RECORD, probed] if run.seed else [RECORD]) for run in runs], tmp_path / "sweep")
    return tmp_path / "sweep", runs


def test_tables_of_a_sweep_read_back_exactly(sweep):
    folder, runs = sweep
    assert read_runs(folder) == runs and runs[0].levels == {"lr": "0.1"} and runs[0].precision == "fp32"
    assert [(cell.name, [run.seed for run in cell.runs]) for cell in group(runs)] == [
        ("c0.1", [0, 1]),
        ("c0.2", [0, 1]),
    ]
    header, *rows = (folder / "epochs.csv").read_text().splitlines()
    assert header.startswith("run,cell,seed,epoch,lr,") and header.endswith(",compile_seconds,turnover")
    assert [row.split(",")[-1] for row in rows] == ["", "0.25", "", "0.25", "", ""]


def test_command_compares_sweeps_and_runs(sweep, tmp_path, capsys):
    folder, _ = sweep
    assert main([str(folder), str(save(tmp_path, "x", 0, 12.5))]) == 0
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["| c0.1", "| c0.2", "| x"]
    other = folder.rename(tmp_path / "other")
    folder.mkdir()
    for path in other.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert [cell.name for cell in read_cells([folder, other])][::2] == [f"{folder}: c0.1", f"{other}: c0.1"]


@pytest.mark.parametrize("damage", ["", "run,cell\na,b\n", "one column\n1\n"])
def test_damaged_table_is_named(tmp_path, damage):
    (tmp_path / cells.RUNS).write_text(damage)
    with pytest.raises(OutputError, match=r"runs\.csv: cannot be read as a table of runs"):
        read_runs(tmp_path)
    with pytest.raises(OutputError, match=r"absent.runs\.csv: cannot be read .*No such file"):
        read_runs(tmp_path / "absent")


def test_published_table_of_small_cells():
    """The numbers that the README quotes, recomputed from the committed runs."""
    assert table(read_cells([SMALL_CELLS])).splitlines()[2:] == [
        "| baseline_small | 0, 1, 2 | 18.12 ± 0.77 % | 18.29 ± 0.80 % | 18.12 ± 0.77 % | 20.87 ± 0.61 % |",
        "| ptd_small | 0, 1, 2 | 18.09 ± 0.86 % | 18.23 ± 0.89 % | 18.09 ± 0.86 % | 21.03 ± 0.68 % |",
        "| baseline_aug_small | 0, 1, 2 | 16.50 ± 1.13 % | 16.73 ± 1.21 % | 16.50 ± 1.13 % | 18.69 ± 1.06 % |",
        "| ptd_aug_small | 0, 1, 2 | 16.44 ± 1.44 % | 16.61 ± 1.31 % | 16.44 ± 1.44 % | 18.76 ± 1.27 % |",
    ]
    assert RunRecord.read(FIGURES / "demo").finished  # the one example of a whole run


def test_columns_are_what_their_headers_say():
    header, _, row, *_ = (line.strip("| ").split(" | ") for line in table(read_cells([SMALL_CELLS])).splitlines())
    results = {
        "test accuracy, last epoch": "test_accuracy",
        "raw weights": "test_accuracy_raw",
        "best on test": "best_on_test",
        "train, clean images": "clean_train_accuracy",
    }
    assert header == ["run", "seeds", *results]
    with open(SMALL_CELLS / "runs.csv", newline="", encoding="utf-8") as file:
        runs = [run for run in csv.DictReader(file) if run["cell"] == row[0]]
    for name, said in zip(results.values(), row[2:], strict=True):
        assert said.startswith(f"{statistics.mean(float(run[name]) for run in runs):.2f} ±")


def test_the_table_of_two_sweeps_keeps_their_cells_apart(tmp_path, capsys):
    """Both have one called `base`: read back, it would be one with two runs of each seed."""
    for name, epochs, accuracies in (("few", 5, (10.0, 11.0)), ("many", 50, (60.0, 61.0))):
        (tmp_path / name).mkdir()
        runs = [FinishedRun.of(record(f"base_seed{s}", s, value), "base") for s, value in enumerate(accuracies)]
        write_runs([dataclasses.replace(run, epochs=epochs) for run in runs], tmp_path / name)
    assert main([str(tmp_path / "few"), str(tmp_path / "many"), "--table", str(tmp_path / "both")]) == 0
    printed = capsys.readouterr().out
    assert [cell.values("test_accuracy") for cell in read_cells([tmp_path / "both"])] == [[10.0, 11.0], [60.0, 61.0]]
    assert main([str(tmp_path / "both")]) == 0 and capsys.readouterr().out == printed


def test_two_runs_of_one_cell_and_seed_are_no_sample():
    runs = [FinishedRun.of(record(name, 3, 10.0), "base") for name in ("one", "two")]
    with pytest.raises(OutputError, match="one and two: are both of the cell base with seed 3"):
        group(runs)
    assert len(group([runs[0], dataclasses.replace(runs[1], precision="bf16")])) == 2
