"""The Dask cluster of one machine: how many workers, what each of them sees, and how they end."""

import contextlib
import os
import signal
import socket

import pytest
import torch
from distributed import SpecCluster

from ptd_core.errors import DeviceError
from ptd_core.sweep import cluster as sweep_cluster
from ptd_core.sweep.cluster import local_client, worker_environments

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.mark.parametrize(
    ("visible", "workers", "expected"),
    [(None, None, ["0", "1"]), ("3,5", None, ["3", "5"]), ("3,5", 1, ["3"]), ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"])],
)
def test_each_worker_sees_one_cuda_device(monkeypatch, visible, workers, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environments = worker_environments("auto", workers, threads=1)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == expected
    assert worker_environments("cpu", 3, threads=1) == [{}, {}, {}]
    with pytest.raises(DeviceError, match="--workers 3: this machine has 2 cuda devices"):
        worker_environments("auto", 3, threads=1)


def test_workers_on_the_cpu_fill_the_cores(monkeypatch):
    monkeypatch.setattr(sweep_cluster, "CPU_COUNT", 7)
    assert [len(worker_environments("cpu", None, threads)) for threads in (1, 2, 3, 9)] == [7, 3, 2, 1]
    assert len(worker_environments("cpu", 2, 1)) == 2


def test_workers_of_a_cluster_without_gpus(capfd, recwarn, monkeypatch):
    """Reachable from this machine only, deaf to Ctrl-C; the dashboard takes a free port where its own is busy."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # what the user has set counts more
    with socket.socket() as busy:
        with contextlib.suppress(OSError):  # somebody else has it: as good
            busy.bind(("127.0.0.1", 8787))
            busy.listen()
        with local_client("cpu", 2, threads=3, allowed_failures=3) as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
            assert client.dashboard_link.startswith("http://127.0.0.1:") and ":8787" not in client.dashboard_link
            assert client.scheduler.address.startswith("tcp://127.0.0.1:")
            assert set(client.run(signal.getsignal, signal.SIGINT).values()) == {signal.SIG_IGN}
            assert set(client.run(os.environ.get, "OMP_NUM_THREADS").values()) == {"3"}
    assert len(workers) == 2
    for address, worker in workers.items():
        assert address.startswith("tcp://127.0.0.1:") and worker["resources"] == {"device": 1}
        assert worker["nthreads"] == 1 and worker["memory_limit"] == 0
    assert capfd.readouterr() == ("", "") and not [warning for warning in recwarn if "Port" in str(warning.message)]


def test_a_worker_that_is_slow_to_die_is_no_error(monkeypatch):
    """As on a machine that is too busy: Dask's own patience ends, and what the sweep raised is what is told."""
    closed, close = [], SpecCluster.close

    def slow(cluster, *arguments, **options):
        close(cluster, *arguments, **options)
        closed.append(cluster)
        raise TimeoutError

    monkeypatch.setattr(SpecCluster, "close", slow)
    with pytest.raises(KeyboardInterrupt), local_client("cpu", 1, threads=1, allowed_failures=1):
        raise KeyboardInterrupt
    assert closed
