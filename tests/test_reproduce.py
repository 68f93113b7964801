"""The reproduction in pieces: it stops when its time is over, goes on, and repeats nothing."""

import json

import pytest

from ptd_core import reproduce

SMALL = ["dataset=shapes", "image_size=16", "subset=64", "test_subset=20", "stem_width=4", "embed_dim=16", "depth=1",
         "num_heads=2", "batch_size=32", "epochs=2", "warmup_epochs=0", "device=cpu", "precision=fp32"]  # fmt: skip


@pytest.mark.slow
def test_it_stops_goes_on_and_repeats_nothing(tmp_path, capfd):
    arguments = ["nowhere", "--no-bench", "--out", str(tmp_path), *SMALL]
    assert reproduce.main([*arguments, "--minutes", "0"]) == reproduce.RESUMABLE
    assert not (tmp_path / "runs").exists()
    assert reproduce.main(arguments) == 0
    written = {}
    for name in reproduce.RECIPES:
        file = tmp_path / "runs" / name / "run.json"
        info = json.loads(file.read_text())
        assert info["finished"] and info["epochs"] == 2 and info["run"] == name
        written[file] = file.stat().st_mtime_ns
    capfd.readouterr()
    assert reproduce.main(arguments) == 0
    assert capfd.readouterr().out.splitlines() == [f"{name}: finished" for name in reproduce.RECIPES]
    assert all(file.stat().st_mtime_ns == before for file, before in written.items())


@pytest.mark.slow
def test_a_run_that_is_cut_is_saved_and_a_failure_is_passed_on(tmp_path):
    arguments = ["nowhere", "--no-bench", "--out", str(tmp_path), *SMALL, "epochs=100000", "subset=320"]
    arguments.remove("epochs=2")
    arguments.remove("subset=64")
    assert reproduce.main([*arguments, "--minutes", "0.4"]) == reproduce.RESUMABLE
    assert (tmp_path / "runs" / "ptd_aug" / "last.pt").exists()
    assert not json.loads((tmp_path / "runs" / "ptd_aug" / "run.json").read_text())["finished"]
    assert reproduce.main(["nowhere", "--no-bench", "--out", str(tmp_path), "embed_dim=-1"]) == 2
