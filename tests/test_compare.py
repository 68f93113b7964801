"""Comparing runs: grouping by recipe, mean and spread, refusals."""

import json

from ptd_core.compare import comparison_figure, main, read_cells, spread, table


def leave(folder, run, seed, accuracy, drop=0.0, finished=True):
    folder = folder / run
    folder.mkdir()
    results = dict.fromkeys(("test_accuracy", "test_accuracy_raw", "best_on_test", "clean_train_accuracy"), accuracy)
    info = {"run": run, "seed": seed, "chapter": "ptd" if drop else "baseline", "finished": finished, "device": "D",
            "commit": "abc", "recipe": {"seed": seed, "drop_final": drop}, "results": results}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def test_seeds_of_one_recipe_are_one_row(tmp_path):
    folders = [leave(tmp_path, "b", 1, 11.0), leave(tmp_path, "p", 0, 30.0, drop=0.35), leave(tmp_path, "a", 0, 10.0)]
    cells = read_cells(folders)
    assert [(cell.name, cell.values("test_accuracy")) for cell in cells] == [("a", [10.0, 11.0]), ("p", [30.0])]
    rows = table(cells).splitlines()
    assert len(rows) == 4
    assert rows[2].startswith("| a | 0, 1 | 10.50 ± 0.71 % |") and rows[3].startswith("| p | 0 | 30.00 % |")
    points = [line.get_xdata().tolist() for line in comparison_figure(cells).axes[0].lines if line.get_marker() == "o"]
    assert points == [[10.0, 11.0], [30.0]]


def test_spread_is_the_sample_standard_deviation():
    assert spread([1.0, 2.0, 3.0, 6.0]) == "3.00 ± 2.16 %"  # sqrt((4 + 1 + 0 + 9) / 3)


def test_folders_without_a_finished_run_are_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no readable run.json" in capsys.readouterr().err
    assert main([str(leave(tmp_path, "x", 0, 1.0, finished=False))]) == 2
    assert "not finished" in capsys.readouterr().err


def test_command_prints_the_table_and_draws(tmp_path, capsys):
    folder = leave(tmp_path, "x", 0, 12.5)
    assert main([str(folder), "--figure", str(tmp_path / "f.png")]) == 0
    assert "| x | 0 | 12.50 % |" in capsys.readouterr().out
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
