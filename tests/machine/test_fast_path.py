"""The fast path gives the slow path's numbers, and compiles few graphs over a whole curriculum."""

import copy
import resource
import sys

import forked
import pytest
import torch
import torch.nn.functional as F
from conftest import equal
from graphs import counted_graphs
from test_token_drop import full_attention_then_gather

from ptd_core.data.batches import Batch
from ptd_core.machine.fast_path import FastPath, keep_freed_memory, multiplies_bf16
from ptd_core.model import HybridViT
from ptd_core.records.history import EpochRecord
from ptd_core.records.ledger import time_ledger
from ptd_core.records.run_record import RunRecord
from ptd_core.run import execute
from ptd_core.schedule import DropSchedule, learning_rate
from ptd_core.token_drop import TokenDropViT
from ptd_core.trainer import Trainer, build_model

EXACT = {"dropout": 0.0, "drop_path": 0.0, "epochs": 10, "drop_end": 6, "ema_decay": 0.0, "eval_every": 10}


def reference_losses(recipe, dataset):
    """The recipe trained the plain way: full explicit attention and a gather, one-hot labels, an unfused optimizer."""
    trainer = Trainer(recipe, dataset)  # for its batches only
    model = build_model(recipe, trainer.classes, "explicit").train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, foreach=False, fused=False)
    steps, losses = trainer.steps_per_epoch, []
    for epoch in range(recipe.epochs):
        kept_in = {} if recipe.keep(epoch) is None else {recipe.drop_block: recipe.kept_tokens(epoch)}
        for step, (images, labels, weight, _) in enumerate(trainer.batches.epoch(epoch)):
            share = weight.double().mean().item()
            mixed = images * weight + images.flip(0) * (1 - weight)
            target = F.one_hot(labels, 10).double()
            target = share * target + (1 - share) * target.flip(0)
            target = target * (1 - recipe.label_smoothing) + recipe.label_smoothing / 10
            logits = full_attention_then_gather(model, trainer.normalise(mixed), kept_in)
            loss = -(target * logits.double().log_softmax(1)).sum(1).mean()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    epoch * steps + step,
                    peak=recipe.lr,
                    warmup_steps=recipe.warmup_epochs * steps,
                    total_steps=recipe.epochs * steps,
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip, foreach=False)
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("attention", ["fused", "explicit"])
def test_fifty_steps_of_the_fast_path_equal_the_plain_way(tiny, tiny_shapes, attention):
    recipe = tiny(**EXACT, attention=attention)
    trainer = Trainer(recipe, tiny_shapes)
    losses = []
    for _ in trainer.epochs(lambda epoch, done, steps: losses.append(trainer.partial.losses[done - 1].item())):
        pass
    expected = reference_losses(recipe, tiny_shapes)
    assert len(losses) == 50 and losses[-1] < losses[0]
    assert losses == pytest.approx(expected, rel=2e-4)


def test_the_default_curriculum_compiles_at_most_three_graphs():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = TokenDropViT(HybridViT(num_classes=5, stem_width=4, embed_dim=16, depth=2, num_heads=2)).train()
    schedule = DropSchedule(init=0.0, final=0.35, start=40, end=140, gamma=2.0)
    kept = list(dict.fromkeys(schedule.kept(epoch, 256) for epoch in range(200)))
    assert len(kept) == 74
    compiled, graphs = counted_graphs(model, "aot_eager")
    images = torch.randn(2, 3, 32, 32)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for keep in kept:
            given = (keep,) if keep < 256 else None
            got = compiled(images, given)
            if keep in (kept[0], kept[1], kept[-1]):
                assert torch.allclose(got, model(images, given), atol=1e-5)
                got.sum().backward()
    assert 1 <= len(graphs) <= 3


def test_auto_follows_the_device_and_what_is_asked_for_is_kept(monkeypatch):
    cpu, cuda, mps = (torch.device(name) for name in ("cpu", "cuda", "mps"))
    bf16 = multiplies_bf16(torch.device("cpu"))
    assert FastPath.choose(cpu) == FastPath("bf16" if bf16 else "fp32", "explicit" if bf16 else "fused", True, "off")
    for capability, chosen in (
        ((7, 5), FastPath("fp32", "fused", True, "off")),
        ((8, 0), FastPath("bf16", "fused", True, "cudagraphs")),
        ((12, 0), FastPath("bf16", "fused", True, "cudagraphs")),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert FastPath.choose(cuda) == chosen
    assert FastPath.choose(mps) == FastPath("fp32", "fused", False, "off")
    assert FastPath.choose(cpu, "bf16", "fused", "inductor") == FastPath("bf16", "fused", True, "inductor")


def test_bf16_stays_near_fp32(tiny, tiny_shapes):
    if not multiplies_bf16(torch.device("cpu")):
        pytest.skip("this CPU emulates bf16")
    losses = [next(Trainer(tiny(precision=p), tiny_shapes).epochs()).train_loss for p in ("fp32", "bf16")]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(64 * 2**20 // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def print_faults():
    print(faults(), keep_freed_memory(), faults(), faults())


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_freed_memory_is_used_again():
    done = forked.run(print_faults)
    assert done.returncode == 0, done.stderr
    before, kept, _, after = done.stdout.split()  # the first round after it still fetches memory, which it then keeps
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    assert int(before) > 10_000 and int(after) < int(before) / 100


@pytest.mark.slow
def test_a_compiled_run_equals_an_eager_one(tiny, tiny_shapes):
    """Images that grow after the first epoch, and another number of tokens in each."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = {"dropout": 0.0, "drop_path": 0.0, "depth": 1, "epochs": 3, "drop_init": 0.25, "drop_end": 2,
                "size_stages": "8/16 at 34/66"}  # fmt: skip
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        runs = [list(Trainer(tiny(**settings, compilation=c), tiny_shapes).epochs()) for c in ("off", "inductor")]
    for eager, compiled in zip(*runs):
        assert compiled.train_loss == pytest.approx(eager.train_loss, rel=1e-4)
        assert compiled.kept_tokens == eager.kept_tokens
    assert [record.kept_tokens for record in runs[0]] == [12, 44, 32]
    assert [record.compile_seconds for record in runs[0]] == [0.0] * 3
    assert all(record.compile_seconds > 0 for record in runs[1])  # each epoch has its own number of tokens
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_preparing_a_step_leaves_no_trace(tiny, tiny_shapes):
    trainer = Trainer(tiny(), tiny_shapes)
    trainer.model.train()
    batch = Batch(torch.rand(32, 3, 16, 16), torch.zeros(32, dtype=torch.long))
    trainer.step(batch, (40,))  # an optimizer with a state
    before = copy.deepcopy(trainer.state_dict())
    trainer.step.prepare(batch._replace(mix=torch.rand(16, 16)), (40,))
    assert equal(trainer.state_dict(), before)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    trainer.step(batch, (40,))
    assert not equal(trainer.state_dict(), before)  # the comparison sees a step


def test_preparing_that_fails_leaves_no_trace_either(tiny, tiny_shapes, monkeypatch):
    """As where the first forward pass is compiled and the backward pass cannot be."""
    trainer = Trainer(tiny(), tiny_shapes)
    trainer.model.train()
    batch = Batch(torch.rand(32, 3, 16, 16), torch.zeros(32, dtype=torch.long))
    trainer.step(batch, (40,))
    before = copy.deepcopy(trainer.state_dict())

    def fail(loss):
        assert not equal(trainer.state_dict(), before)  # statistics of batch norm
        raise RuntimeError("no compiler")

    monkeypatch.setattr(trainer.step, "backward", fail)
    with pytest.raises(RuntimeError, match="no compiler"):
        trainer.step.prepare(batch, (40,))
    assert equal(trainer.state_dict(), before)


def test_ledger_sets_saved_time_against_the_runs_own_epochs_with_all_tokens():
    numbers = {**dict.fromkeys(EpochRecord.__dataclass_fields__, 1.0), "extra": {}}
    spent, kept = (9.0, 4.0, 4.5, 3.0, 2.0), (64, 64, 64, 50, 41)
    records = [EpochRecord(**{**numbers, "train_seconds": s, "kept_tokens": k}) for s, k in zip(spent, kept)]
    ledger = time_ledger(records, 64)
    assert ledger.all_tokens_epochs == 2  # the first epoch warms up
    assert ledger.all_tokens_seconds == 5 * 4.25
    assert ledger.saved_seconds == 5 * 4.25 - 22.5
    assert ledger.measured_speedup == 5 * 4.25 / 22.5
    assert (ledger.data_seconds, ledger.step_seconds, ledger.evaluation_seconds) == (5.0, 17.5, 5.0)
    assert ledger.compile_seconds == 5.0 and ledger.training_seconds == 22.5
    assert time_ledger(records[3:], 64).saved_seconds is None
    assert time_ledger(records[::-1], 64).all_tokens_epochs == 3  # at the end: the first is none


def test_run_json_has_the_ledger(tiny, tiny_shapes):
    done = execute(tiny(), dataset=tiny_shapes)
    ledger = RunRecord.read(done.folder).time_ledger
    assert 0 < ledger.data_seconds < ledger.training_seconds
    assert ledger.training_seconds == pytest.approx(sum(r.train_seconds for r in done.records))
