"""The bench: its clock, its peers against the model they stand beside, its report."""

import functools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from forked import server
from patience import PATIENCE

from ptd_core import trainer
from ptd_core.bench import __main__ as bench
from ptd_core.bench import accounts, apart
from ptd_core.bench.candidates import candidates
from ptd_core.bench.memory import peak_of
from ptd_core.bench.plain import plain_step
from ptd_core.bench.plain_vit import PlainViT
from ptd_core.bench.workload import Workload, dropping_none, random_images
from ptd_core.machine.clock import WARM_UP, Timing, interleave, warm_up
from ptd_core.machine.fast_path import FastPath
from ptd_core.recipe import Recipe
from ptd_core.rivals.dense import encoder_vit, timm_vit
from ptd_core.token_drop import TokenDropViT

TINY = ["stem_width=4", "embed_dim=16", "depth=2", "num_heads=2", "batch_size=8", "device=cpu", "precision=fp32",
        "compilation=off"]  # fmt: skip


def test_cases_take_turns_and_every_round_begins_with_another(monkeypatch):
    calls = []
    times = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: next(times))  # every call takes one second of this clock
    timings = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, 3, torch.device("cpu"))
    assert "".join(calls) == "abc" + "abcabc" + "abc" + "bca" + "cab"  # first calls, warm-up, three rounds
    assert timings["a"].seconds == [1, 1, 1] and timings["a"].first == 1


def test_a_case_is_warm_when_it_gets_no_faster():
    takes = {"slow start": [8.0, 4.0, 2.0, 1.99, 9.0], "steady": [3.0, 3.0, 9.0], "falls for ever": range(99, 0, -9)}
    left = {name: iter(seconds) for name, seconds in takes.items()}
    fastest = warm_up({name: functools.partial(next, seconds) for name, seconds in left.items()})
    assert fastest == {"slow start": 1.99, "steady": 3.0, "falls for ever": 99 - 9 * (WARM_UP - 1)}
    assert next(left["slow start"]) == next(left["steady"]) == 9.0  # were not called again


def test_peers_compute_with_the_kernel_and_precision_that_their_rows_name(tiny, monkeypatch):
    fused, made = [], []
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **b: (fused.append(1), attention(*a, **b))[1])
    step = Workload.step
    monkeypatch.setattr(Workload, "step", lambda work, *given: (made.append(given[-1]), step(work, *given))[1])
    work = Workload(tiny(attention="explicit"))
    for ratio in (0.0, 0.35):
        found = candidates(work.path, ratio)
        assert found[0].name == f"this project, d = {ratio}" and found[0].path == work.path
        assert len({candidate.name for candidate in found}) == len(found) == (5 if ratio else 6)
        for candidate in found:
            fused.clear(), made.clear()
            (candidate.alone(work.recipe) if candidate.apart else candidate.step(work))()
            assert made == ([] if candidate.code == "plain" else [candidate.path])
            explicit = candidate.code == "plain" or (
                candidate.path.attention == "explicit" and candidate.code != "encoder"
            )
            assert bool(fused) is not explicit, candidate.name


def test_the_plain_loop_has_a_process_without_our_memory_settings(tiny, monkeypatch):
    kept = []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: kept.append(1))
    for candidate in candidates(FastPath.choose(torch.device("cpu"), "fp32"), 0.0):
        kept.clear()
        candidate.alone(tiny())
        assert bool(kept) is not candidate.apart


def test_ratios_are_taken_within_rounds():
    slow, fast = Timing([8.0, 40.0, 9.0], 9.0), Timing([2.0, 10.0, 9.0], 9.0)
    assert slow.over(fast) == 4.0  # of 4, 4, 1; the ratio of the medians is 1
    assert slow.median == fast.median == 9.0
    assert Timing([1.0, 2.0, 3.0], 0.0).spread == pytest.approx(0.25)


def test_plain_implementation_is_the_same_function(tiny):
    """With one set of weights the plain model's logits are HybridViT's, with all tokens and with some dropped."""
    recipe = tiny(dropout=0.0, drop_path=0.0)
    torch.manual_seed(0)
    plain = PlainViT(recipe, 10).double().train()
    ours = recipe.vit.build(10, "explicit").double().train()
    weights = {
        name.replace("tokens.stem.", "stem.")
        .replace("qkv", "attn.qkv")
        .replace(".proj.", ".attn.proj.")
        .replace("mlp.0", "mlp.fc1")
        .replace("mlp.2", "mlp.fc2"): value
        for name, value in plain.state_dict().items()
    }
    ours.load_state_dict(weights)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for keep in (None, 64, 30, 1):
        torch.testing.assert_close(plain(images, keep), TokenDropViT(ours)(images, keep and (keep,)))


def test_peers_have_the_size_of_this_model(tiny):
    recipe = tiny()
    size = sum(p.numel() for p in recipe.vit.build(10).parameters())
    for peer in (timm_vit(recipe.vit, 10), timm_vit(recipe.vit, 10, 0.35), encoder_vit(recipe.vit, 10)):
        assert sum(p.numel() for p in peer.parameters()) == size
        assert peer(torch.randn(2, 3, 16, 16), (64,)).shape == (2, 10)
    seen = []
    dropping = timm_vit(recipe.vit, 10, 0.35).train()
    dropping.model.blocks[0].register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    dropping(torch.randn(2, 3, 16, 16), (64,))
    assert seen == [1 + 41]  # floor of 0.65 * 64: random drop as much as saliency would


def test_plain_step_learns(tiny):
    recipe = tiny(lr=1e-3)
    step = plain_step(recipe, random_images(recipe), torch.device("cpu"), 32, "fp32")
    losses = [step() for _ in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_step_of_the_workload_is_the_trainers(tiny):
    """Two steps by the bench leave the weights that two steps by the trainer leave."""
    recipe = tiny(dropout=0.0, drop_path=0.0, drop_final=0.0, warmup_epochs=0, epochs=1, lr=1e-4)
    bench_work, trained = Workload(recipe), Workload(recipe)
    model = bench_work.network()
    step = bench_work.step(model, None)
    batches = trained.batches()
    trained.trainer.model.train()
    for _ in range(2):
        step()
        trained.trainer.step(next(batches), None)
    for mine, theirs in zip(model.parameters(), trained.trainer.model.parameters()):
        assert torch.equal(mine, theirs)


def begin_forking(first, begin=apart._begin):
    multiprocessing.set_start_method("fork", force=True)
    begin(first)


@pytest.fixture
def forked_cases(monkeypatch):
    """The processes of cases are forked, not started anew, and so are the loaders of these."""
    forking = SimpleNamespace(get_context=lambda how: server(), parent_process=multiprocessing.parent_process)
    monkeypatch.setattr(apart, "multiprocessing", forking)
    monkeypatch.setattr(apart, "_begin", begin_forking)


def test_bench_leaves_a_report(tmp_path, capsys, forked_cases):
    folder = tmp_path / "report"
    sections = ["steps", "peers", "augmentation"]
    assert bench.main(["--only", *sections, "--rounds", "2", "--to", str(folder), *TINY, "stem_stride=4"]) == 0
    report = json.loads((folder / "bench.json").read_text())
    assert list(report["sections"]) == sections and report["rounds"] == 2
    for row in report["sections"]["steps"]:
        assert row["predicted"] >= 1 and len(row["seconds"]) == 2
    assert report["sections"]["steps"][0]["speedup"] == 1
    printed = capsys.readouterr().out
    assert all(row["case"] in printed for rows in report["sections"].values() for row in rows)
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_memory_is_asked_of_everybody(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(accounts, "peak_of", lambda make, device: asked.append(make.func.__self__) or len(asked))
    work = Workload(tiny())
    rows = accounts.memory(work, 1)
    assert asked == [candidate for ratio in (0.0, 0.35) for candidate in candidates(work.path, ratio)]
    assert [(row["case"], row["peak_bytes"]) for row in rows] == [(one.name, n + 1) for n, one in enumerate(asked)]


@pytest.mark.slow
def test_memory_of_a_step_is_measured_in_a_process_of_its_own(forked_cases):
    recipe = Recipe.from_yaml(bench.PUBLISHED, [*(one for one in TINY if "batch" not in one), "batch_size=32"])
    path = FastPath.choose(torch.device("cpu"), "fp32")
    ours, plain = (
        peak_of(functools.partial(candidate.alone, recipe), "cpu")
        for candidate in candidates(path, 0.0)
        if candidate.name.startswith(("this project, d", "plain"))
    )
    logits_of_heads = 32 * 2 * 257 * 257 * 4 * 2  # the plain one keeps these weights of both blocks
    assert plain > logits_of_heads and 0 < ours < plain


def test_a_stopped_bench_goes_on_after_its_last_section(tmp_path, monkeypatch):
    def stop(work, rounds):
        raise KeyboardInterrupt

    arguments = ["--only", "augmentation", "ledger", "--rounds", "1", "--to", str(tmp_path), *TINY]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(bench.SECTIONS, "ledger", stop)
        bench.main(arguments)
    stopped = json.loads((tmp_path / "bench.json").read_text())
    assert list(stopped["sections"]) == ["augmentation"] and not stopped["finished"]
    assert bench.main(arguments) == 0
    whole = json.loads((tmp_path / "bench.json").read_text())
    assert list(whole["sections"]) == ["augmentation", "ledger"] and not whole["finished"]  # all sections would be
    assert whole["sections"]["augmentation"] == stopped["sections"]["augmentation"]
    assert bench.main([*arguments, "lr=1.0e-3"]) == 0  # another recipe begins anew
    anew = json.loads((tmp_path / "bench.json").read_text())
    assert anew["sections"]["augmentation"] != stopped["sections"]["augmentation"]
    assert json.loads((tmp_path / "bench_1.json").read_text()) == whole


def test_a_section_alone_takes_nothing_from_a_report(tmp_path, monkeypatch):
    measured = []
    for name in bench.SECTIONS:
        rows = [{"case": name}]
        monkeypatch.setitem(bench.SECTIONS, name, lambda work, rounds, rows=rows: measured.append(rows) or rows)
    monkeypatch.setattr(bench, "write_report", lambda folder, report: bench_file(folder).write_text(json.dumps(report)))

    def bench_file(folder):
        return folder / "bench.json"

    arguments = ["--rounds", "1", "--to", str(tmp_path), *TINY]
    assert bench.main(["--only", "ledger", *arguments]) == 0
    assert bench.main(arguments) == 0
    whole = bench_file(tmp_path).read_text()
    assert json.loads(whole)["finished"] and len(measured) == len(bench.SECTIONS)
    assert bench.main(["--only", "memory", *arguments]) == 0
    assert bench_file(tmp_path).read_text() == whole and len(measured) == len(bench.SECTIONS)


def test_recipes_and_folders_that_cannot_be_measured_are_refused_first(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert bench.main(["--only", "ledger", "--to", str(tmp_path / "file"), *TINY]) == 2
    assert "cannot be made" in capsys.readouterr().err
    (tmp_path / "timm.yaml").write_text("{model: vit_tiny_patch16_224, model_args: 'patch_size=8,depth=2'}")
    timm = ["--recipe", str(tmp_path / "timm.yaml"), "--only", "steps", "--to", str(tmp_path / "report")]
    assert bench.main(timm) == 2
    assert "steps measure hybrid_vit beside peers" in capsys.readouterr().err and not (tmp_path / "report").exists()


def test_a_recipe_that_drops_in_its_own_way_is_measured_with_all_tokens_where_these_are_asked(tiny):
    recipe = tiny(drop_blocks="0, 1", drop_shares="1, 1", drop_fate="fuse", size_stages="8/16 at 1/1", frozen_blocks=1)
    found = dropping_none(recipe, depth=1)
    assert (found.chapter, found.sides, found.frozen_blocks) == ("baseline", [16] * found.epochs, 0)
    assert found.replace(depth=2).vit == recipe.vit


def test_random_images_have_objects_where_the_recipe_asks_for_them(tiny):
    Workload(tiny(drop_score="oracle", rand_ops=0, mixup_alpha=0.0, cutmix_alpha=0.0)).trainers_step((8,))()


@pytest.mark.slow
def test_paths_are_measured_once_each_and_none_falls_back_to_eager(tmp_path, monkeypatch):
    torch._dynamo.reset()
    compile = torch.compile  # what Inductor makes of the graphs is not asked here
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: compile(model, backend="aot_eager"))
    torch._dynamo.utils.counters.clear()
    settings = [word for word in TINY if not word.startswith("compilation")]
    assert bench.main(["--only", "paths", "--rounds", "1", "--to", str(tmp_path), *settings]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["sections"]["paths"]
    assert len({row["case"] for row in rows}) == len(rows)
    assert [row["compilation"] for row in rows if row["auto"]] == ["off", "off"]
    assert sum(row["compilation"] == "inductor" for row in rows) == 2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_bad_requests_are_refused(capsys):
    assert bench.main(["embed_dimm=3"]) == 2
    assert "did you mean embed_dim" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["--rounds", "0"])
    assert "at least 1" in capsys.readouterr().err


def wait_with_a_case(number):
    """A bench that has started the process of a case, tells its number, and waits."""
    number.put(apart.one_process().submit(os.getpid).result())
    time.sleep(3600)


def test_a_killed_bench_leaves_no_process_behind():
    number = server().Queue()
    bench = server().Process(target=wait_with_a_case, args=(number,))
    bench.start()
    child = number.get(timeout=PATIENCE)
    os.kill(child, 0)  # it is there
    bench.kill()
    bench.join()
    for _ in range(300):
        if not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the case's process outlived the bench by 30 s")
