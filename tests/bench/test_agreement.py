"""The bench's first section: a device that computes something else is refused."""

import pytest
import torch
from conftest import TINY

from ptd_core.bench import agreement as section
from ptd_core.bench.agreement import CASES, agreement
from ptd_core.bench.workload import Workload
from ptd_core.errors import DeviceError
from ptd_core.recipe import Recipe


@pytest.fixture
def work():
    return Workload(Recipe(**{**TINY, "depth": 3, "dataset": "shapes"}))


def test_the_cpu_agrees_with_itself(work):
    rows = agreement(work, 1)
    assert [row["case"] for row in rows] == [f"{case}, {name}" for case in CASES for name in ("loss", "gradients")]
    for row in rows:
        assert row["device_error"] == row["cpu_error"] < 1e-4
    assert max(row["cpu_error"] for row in rows) > 1e-9  # against float64, not against itself


def test_each_case_computes_something_else(work):
    cpu = torch.device("cpu")
    losses = [section._pass(work.recipe, case, cpu, torch.float64)["loss"].item() for case in CASES]
    assert len(set(losses)) == len(CASES)


def test_a_device_that_computes_something_else_is_refused(work, monkeypatch):
    """One whose every pass after the reference and the CPU's is a little wrong."""
    calls, true = [], section._pass

    def wrong(recipe, case, device, dtype):
        calls.append(case)
        found = true(recipe, case, device, dtype)
        return {name: value * (1 + 1e-3 * (len(calls) % 3 == 0)) for name, value in found.items()}

    monkeypatch.setattr(section, "_pass", wrong)
    with pytest.raises(DeviceError, match=r"cpu: computes otherwise than the CPU: all tokens, loss: .* 0.001 in fp32"):
        agreement(work, 1)
