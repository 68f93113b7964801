"""A case in a process of its own, where nothing of what this project does to its own process (memory) helps it."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

_step: Callable[[], object]


class Apart:
    """Calling it calls the step that `make_step`, importable and picklable, built in another process."""

    def __init__(self, make_step: Callable[[], Callable[[], object]]):
        context = multiprocessing.get_context("spawn")
        threads = torch.get_num_threads()
        self._pool = ProcessPoolExecutor(1, context, initializer=partial(_build, make_step, threads))

    def __call__(self) -> None:
        self._pool.submit(_call).result()

    def close(self) -> None:
        self._pool.shutdown()


def _build(make_step: Callable[[], Callable[[], object]], threads: int) -> None:
    global _step
    torch.set_num_threads(threads)
    _step = make_step()


def _call() -> None:
    _step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
