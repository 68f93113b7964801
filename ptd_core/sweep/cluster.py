"""Where the runs of a sweep compute: workers on this machine, one for each device, or a Dask cluster that exists.

Every worker has one unit of the resource "device" and every run takes one, so two runs never share a device. On this
machine a worker learns its device from CUDA_VISIBLE_DEVICES, which is set before it starts; on the CPU a device is
one worker process with as many torch threads as `threads` says.
"""

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster, Worker, WorkerPlugin

from ptd_core.errors import DeviceError, SweepError
from ptd_core.machine.device import resolve_device

RESOURCE = {"device": 1}
DASHBOARD = "127.0.0.1:8787"
# A run's failure reaches the command as its task's. What Dask itself calls errors are, here, workers that find the
# scheduler gone while both are being closed.
QUIET = logging.CRITICAL


class _IgnoreInterrupt(WorkerPlugin):
    """A terminal sends Ctrl-C to workers too; here the command alone answers it, and then closes them."""

    def setup(self, worker: Worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def local_client(device: str, workers: int | None, threads: int, allowed_failures: int):
    """A client of a cluster on this machine that lives as long as the context; reachable from this machine only.

    device: as in a recipe, but not cuda:N. workers: at most so many; by default one for each CUDA device, one for MPS,
    or as many as the cores hold. allowed_failures: lost workers after which a run that was theirs is given up.
    Raises DeviceError if the device is absent or fewer are there than workers asked for.
    """
    environments = worker_environments(device, workers, threads)
    config = {
        "distributed.scheduler.allowed-failures": allowed_failures,
        # A worker's end is seen by its connection. Silence alone is no end: laptops sleep, busy machines stall.
        "distributed.scheduler.worker-ttl": None,
        "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": threads,
    }
    with dask.config.set(config), _closed(_cluster(environments)) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def _closed(cluster: SpecCluster) -> Iterator[SpecCluster]:
    """The cluster, closed afterwards. Dask gives up waiting for a process that it has killed where a machine is too
    busy to let it die within seconds; it dies all the same."""
    try:
        yield cluster
    finally:
        with suppress(TimeoutError):
            cluster.close()


def _cluster(environments: list[dict[str, str]]) -> SpecCluster:
    """One worker an environment, and a scheduler whose dashboard takes another port where its own is busy."""
    options = {
        "resources": RESOURCE,
        "memory_limit": 0,  # a training's memory is torch's own: Dask can neither spill nor move it
        "plugins": (_IgnoreInterrupt(),),
        "host": "127.0.0.1",
        "silence_logs": QUIET,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Port \d+ is already in use")
        if not any(environments):
            return LocalCluster(
                n_workers=len(environments), threads_per_worker=1, dashboard_address=DASHBOARD, **options
            )
        workers = {
            number: {"cls": Nanny, "options": {**options, "nthreads": 1, "env": environment}}
            for number, environment in enumerate(environments)
        }
        scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": DASHBOARD}}
        return SpecCluster(workers=workers, scheduler=scheduler, silence_logs=QUIET)


@contextmanager
def remote_client(address: str):
    """A client of the cluster whose scheduler listens at `address`. Raises SweepError if none answers."""
    try:
        client = Client(address, timeout=30)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        raise SweepError(f"--scheduler {address}: no Dask scheduler answers there ({error})") from None
    with client:
        yield client


def worker_environments(device: str, workers: int | None, threads: int) -> list[dict[str, str]]:
    """What each worker's environment adds, one worker an entry."""
    kind = resolve_device(device).type
    if kind == "cpu":
        return [{}] * (workers or max(1, CPU_COUNT // threads))
    found = _cuda_names() if kind == "cuda" else ["mps"]
    if (workers or 0) > len(found):
        raise DeviceError(f"--workers {workers}: this machine has {len(found)} {kind} devices, and each takes one run")
    names = found[:workers]
    return [{"CUDA_VISIBLE_DEVICES": name} if kind == "cuda" else {} for name in names]


def workers_with_a_device(client: Client) -> int:
    """How many workers are there that could take a run."""
    infos = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(info["resources"].get("device", 0) >= 1 for info in infos)


def _cuda_names() -> list[str]:
    """The CUDA devices that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]
