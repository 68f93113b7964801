"""What the children of `test_mapped_killed` do, in processes of their own."""

import ctypes
import os
import signal
import threading
import time

import torch
from ranked import Cut
from torch import nn

from ptd_core.data import image_folder as folder_module
from ptd_core.data import listing
from ptd_core.data import mapped as store_module
from ptd_core.data.augment import Augmentation
from ptd_core.data.batches import Batches
from ptd_core.data.load import load
from ptd_core.evaluation.accuracy import accuracy
from ptd_core.run import execute

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def _counted(counter, then):
    """From here on `counter` counts the decoded images; `then` is called before each."""
    read = folder_module.read_image

    def reading(file, image_size, name=""):
        with counter.get_lock():
            counter.value += 1
        then(counter.value)
        return read(file, image_size, name)

    folder_module.read_image = reading


def decode(folder, cache, side, counter, kill_at=0):
    """Map a folder, four images a flush, one waiting a thread; SIGKILL at one of them, or a little time for each."""
    store_module.FLUSH_BYTES, listing.WAITING = 4 * 3 * side * side, 1

    def then(count):
        if kill_at and count >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.002)

    _counted(counter, then)
    load("folder", folder, image_size=side, images="mapped", cache_dir=cache)


def train(recipe, at):
    torch.set_num_threads(1)
    execute(recipe, Cut(at, signal.SIGKILL))


def own_memory():
    """Bytes of this process's memory that are no file's."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


class _Mean(nn.Module):
    """A model that costs nothing."""

    def forward(self, images):
        return images.mean((2, 3))


def everything(folder, cache, side, answer):
    """Decode, map, augment an epoch, evaluate and take the digest; (largest growth of memory, bytes of the file)."""
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)  # or freed memory would stay with the process, and count
    before, largest, over = own_memory(), [0], threading.Event()

    def watch():
        while not over.wait(0.005):
            largest[0] = max(largest[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    data = load("folder", folder, image_size=side, images="mapped", cache_dir=cache)
    augmentation = Augmentation(crop_padding=4, flip=True, erase=0.25)
    seen = sum(len(batch.images) for batch in Batches(data.train, 8, augmentation).epoch(0))
    rows = data.train.rows_of_part(len(data.test))
    for split, some in ((data.test, None), (data.train, rows)):
        accuracy(_Mean(), split, data.normaliser(torch.device("cpu")), batch_size=16, rows=some)
    assert data.digest and len(data.train) - 8 < seen <= len(data.train)
    over.set()
    watcher.join()
    answer.put((largest[0] - before, data.train.images.nbytes + data.test.images.nbytes))
