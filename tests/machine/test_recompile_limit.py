"""A model that would be compiled too often ends with an error; torch itself would go on uncompiled, silently."""

import functools

import pytest
import torch

from ptd_core.machine import fast_path
from ptd_core.machine.fast_path import RECOMPILE_LIMIT, FastPath


class Scaled(torch.nn.Module):
    def forward(self, x, name: str):
        return x * len(name)


@pytest.fixture
def compile_at(monkeypatch):
    """A function from a limit to a model that is compiled up to so many times, without a compiler behind it."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=False):

        def compiled(limit):
            monkeypatch.setattr(fast_path, "RECOMPILE_LIMIT", limit)
            return FastPath("fp32", "fused", True, "inductor").compile(Scaled())

        yield compiled
    torch._dynamo.reset()


def test_beyond_the_limit_a_step_fails(compile_at):
    model, x = compile_at(2), torch.ones(3)
    assert model(x, "a").tolist() == [1.0] * 3 and model(x, "bc").tolist() == [2.0] * 3
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        model(x, "def")


def test_the_limit_leaves_room_for_many_models_and_lowers_no_higher_one(compile_at):
    compile_at(RECOMPILE_LIMIT)
    assert torch._dynamo.config.recompile_limit == RECOMPILE_LIMIT >= 3
    torch._dynamo.config.recompile_limit = 2 * RECOMPILE_LIMIT
    compile_at(RECOMPILE_LIMIT)
    assert torch._dynamo.config.recompile_limit == 2 * RECOMPILE_LIMIT
    assert torch._dynamo.config.fail_on_recompile_limit_hit
