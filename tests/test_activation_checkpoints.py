"""Activations that are computed again are those that would be kept: outputs, gradients, whole runs; and memory."""

import copy
import functools

import pytest
import timm
import torch
from conftest import equal, without_clocks
from graphs import counted_graphs
from test_model import small

from ptd_core.bench.memory import peak_of
from ptd_core.model import HybridViT
from ptd_core.rivals.rival import NETWORKS
from ptd_core.token_drop import TokenDrop, TokenDropViT
from ptd_core.tokens import vit_parts
from ptd_core.trainer import Trainer

RANDOM = {"drop_rate": 0.3, "drop_path_rate": 0.4}
TIMM = {"img_size": 32, "patch_size": 4, "depth": 3, "embed_dim": 16, "num_heads": 2, "num_classes": 5}
NETWORK = {
    "all tokens": lambda vit: (TokenDropViT(vit), None),
    "discard": lambda vit: (TokenDropViT(vit, TokenDrop((0, 2))), (40, 17)),
    "sampled": lambda vit: (TokenDropViT(vit, TokenDrop((1,), score="random", choice="sample")), (20,)),
    "fuse": lambda vit: (TokenDropViT(vit, TokenDrop((1,), fate="fuse")), (20,)),
    "bypass": lambda vit: (TokenDropViT(vit, TokenDrop((1,), fate="bypass", until=2)), (20,)),
    "kept only": lambda vit: (TokenDropViT(vit, TokenDrop((0,), attended="kept", fate="merge")), (20,)),
    "tome": lambda vit: (NETWORKS["tome"](vit, (), None), (34,)),
    "evo_vit": lambda vit: (NETWORKS["evo_vit"](vit, (1,), None), (30,)),
    "dynamicvit": lambda vit: (NETWORKS["dynamicvit"](vit, (1, 2), copy.deepcopy(vit).eval()), (40, 20)),
}


def vits():
    timm_vit = timm.create_model(
        "vit_tiny_patch16_224", pos_drop_rate=0.2, proj_drop_rate=0.3, attn_drop_rate=0.2, drop_path_rate=0.4, **TIMM
    )
    return {"hybrid": small(**RANDOM), "timm": timm_vit}


@pytest.mark.parametrize("vit", ["hybrid", "timm"])
@pytest.mark.parametrize("name", NETWORK)
def test_outputs_gradients_and_draws_are_the_same(name, vit, monkeypatch):
    torch.manual_seed(0)
    network, keep = NETWORK[name](vits()[vit].double().train())
    network = network.double()
    images, calls = torch.randn(3, 3, *[16 if vit == "hybrid" else 32] * 2, dtype=torch.float64), []
    kept = vit_parts.checkpoint
    monkeypatch.setattr(vit_parts, "checkpoint", lambda *a, **k: calls.append(a) or kept(*a, **k))
    statistics, results = copy.deepcopy(dict(network.named_buffers())), []
    for checkpointing in (False, True):
        network.vit.set_grad_checkpointing(checkpointing)
        network.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        out = network(images, keep)
        out = out if isinstance(out, tuple) else (out, out.new_zeros(()))
        (out[0].square().sum() + out[1]).backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        buffers = copy.deepcopy(dict(network.named_buffers()))
        results.append((*out, gradients, torch.get_rng_state(), buffers))
        network.load_state_dict({**network.state_dict(), **statistics})
    assert equal(results[0], results[1])
    assert calls or (vit == "timm" and keep is None)  # where timm's own forward does it


@pytest.mark.parametrize("settings", [{}, {"drop_method": "evo_vit", "drop_block": 1, "drop_final": 0.3}])
def test_a_run_is_the_same_bit_for_bit(tiny, tiny_shapes, settings):
    """With dropout, drop-path, mixing and batch norm."""
    runs = [Trainer(tiny(checkpoint_activations=on, **settings), tiny_shapes) for on in (False, True)]
    assert [run.model.grad_checkpointing for run in runs] == [False, True]
    records = [without_clocks(run.epochs()) for run in runs]
    assert records[0] == records[1]
    assert equal(runs[0].state_dict(), runs[1].state_dict())


def test_without_gradients_nothing_is_computed_twice(monkeypatch):
    monkeypatch.setattr(vit_parts, "checkpoint", lambda *a, **k: pytest.fail("checkpointed"))
    vit = small().eval()
    vit.set_grad_checkpointing()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        TokenDropViT(vit)(images, (20,)), vit(images)


def test_compiled_it_makes_no_more_graphs():
    torch._dynamo.reset()
    vit = HybridViT(num_classes=5, stem_width=4, embed_dim=16, depth=2, num_heads=2, img_size=16)
    vit.set_grad_checkpointing()
    network = TokenDropViT(vit).train()
    compiled, graphs = counted_graphs(network, "aot_eager")
    images = torch.randn(2, 3, 16, 16)
    for keep in (None, (40,), (30,), (20,)):
        gradients = []
        for run in (network, compiled):
            network.zero_grad()
            run(images, keep).square().sum().backward()
            gradients.append([p.grad.clone() for p in network.parameters()])
        for one, two in zip(*gradients):
            torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
    assert 1 <= len(graphs) <= 3


def training_step(checkpointing):
    """A step of a deep ViT, dropping in the middle."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vit = HybridViT(num_classes=5, img_size=32, stem_width=4, stem_stride=2, embed_dim=64, depth=12, num_heads=2)
    vit.set_grad_checkpointing(checkpointing)
    network, images = TokenDropViT(vit, TokenDrop((6,))).train(), torch.randn(12, 3, 32, 32)

    def step():
        network.zero_grad()
        network(images, (200,)).sum().backward()

    return step


def test_memory_is_a_fraction(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # or freed memory would stay with the process, and count
    peaks = [peak_of(functools.partial(training_step, on), "cpu") for on in (False, True)]
    if None in peaks:
        pytest.skip("this system does not tell the memory of a process")
    assert peaks[1] < 0.5 * peaks[0], [f"{peak / 2**20:.0f} MiB" for peak in peaks]
