"""Reading ahead: what comes next is read by a thread while the caller works on what came before."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T, U = TypeVar("T"), TypeVar("U")


def read_ahead(read: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`read(item)` of each item in order, by one thread, always one item ahead and no more.

    What reading raises is raised where its result was due. A caller that stops early waits for the read under way.
    """
    with ThreadPoolExecutor(1, "read ahead") as pool:
        waiting = None
        for item in items:
            following = pool.submit(read, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
