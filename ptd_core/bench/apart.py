"""A case in a process of its own, where nothing of what this project does to its own process (memory) helps it."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

_step: Callable[[], object]


class Apart:
    """Calling it calls the step that `make_step`, importable and picklable, built in another process."""

    def __init__(self, make_step: Callable[[], Callable[[], object]]):
        self._pool = one_process(partial(_build, make_step, torch.get_num_threads()))

    def __call__(self) -> None:
        self._pool.submit(_call).result()

    def close(self) -> None:
        self._pool.shutdown()


def one_process(first: Callable[[], object] = int) -> ProcessPoolExecutor:
    """A new process; it calls `first`, importable and picklable, before all else. It ends when this one does."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=partial(_begin, first))


def _begin(first: Callable[[], object]) -> None:
    # A pool's process waits for calls for ever if its parent is killed: it holds the other end of its own queue.
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    first()


def _build(make_step: Callable[[], Callable[[], object]], threads: int) -> None:
    global _step
    torch.set_num_threads(threads)
    _step = make_step()


def _call() -> None:
    _step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
