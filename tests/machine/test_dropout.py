"""Dropout on the CPU: the right share, values kept in the mean, gradients of what was kept, PyTorch's own elsewhere."""

import math

import pytest
import torch
from torch import nn

from ptd_core.machine.dropout import Dropout, keep_weights
from ptd_core.model import HybridViT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.97, 1 - 1e-9])
def test_share_and_weight(rate, dtype):
    torch.manual_seed(0)
    n = 1_000_003  # no multiple of the values that share a draw
    weights = keep_weights(torch.zeros(n, dtype=dtype), rate)
    exact = min(round(rate * 65536), 65535) / 65536
    dropped = (weights == 0).sum().item()
    assert abs(dropped - n * exact) < 5 * math.sqrt(n * exact * (1 - exact))
    kept = weights[weights != 0].unique()
    assert kept.tolist() == [torch.tensor(1 / (1 - exact), dtype=dtype).item()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.5])
def test_mean_is_one_up_to_the_rounding_of_the_weight(rate, dtype):
    torch.manual_seed(4)
    n = 1_000_003
    exact = 1 - round(rate * 65536) / 65536
    mean = torch.tensor(1 / exact, dtype=dtype).item() * exact
    assert abs(mean - 1) <= (2**-9 if dtype is torch.bfloat16 else 1e-6)
    chance = 5 * math.sqrt((1 - exact) / exact / n)
    assert abs(Dropout(rate)(torch.ones(n, dtype=dtype)).double().mean().item() - mean) < chance
    pytorchs = nn.functional.dropout(torch.ones(n, dtype=dtype), rate).double().mean().item()
    assert abs(pytorchs - mean) < chance


def test_neighbours_are_independent():
    """Values that share a draw, and those of neighbouring draws: no correlation beyond chance."""
    torch.manual_seed(1)
    kept = (keep_weights(torch.zeros(400_000), 0.3) != 0).double().view(-1, 4)
    columns = torch.cat([kept[:-1], kept[1:, :2]], dim=1)
    between = torch.corrcoef(columns.T) - torch.eye(6)
    assert between.abs().max() < 5 / math.sqrt(len(columns))


def test_output_and_gradient_are_of_the_same_choice():
    torch.manual_seed(2)
    x = torch.randn(7, 11, 13, requires_grad=True)
    out = Dropout(0.25)(x)
    out.sum().backward()
    assert torch.equal(out, x * x.grad)
    assert set(x.grad.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}


def test_seed_decides_and_evaluation_and_rate_zero_do_nothing():
    x = torch.randn(100)
    drop = Dropout(0.5)
    torch.manual_seed(3)
    one = drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), one)
    assert drop.eval()(x) is x and Dropout(0.0)(x) is x


def test_elsewhere_it_is_pytorchs():
    assert Dropout(0.5)(torch.empty(3, device="meta")).device.type == "meta"
    seen = []
    x = torch.ones(64)

    def eager(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(Dropout(0.5), backend=eager)(x)
    assert any("dropout" in name for name in seen)


def test_all_dropout_of_the_model_is_this_one():
    model = HybridViT(10, depth=2, drop_rate=0.1)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    assert len(found) == 1 + 2 * 3 and all(type(module) is Dropout for module in found)
