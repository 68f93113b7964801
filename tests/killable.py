"""What the children of `test_killed` do. They are forked from a server that has imported this file already."""

import io
import os
import resource
import signal

import torch
from sketch import sketch

from ptd_core.errors import OutputError
from ptd_core.model import HybridViT
from ptd_core.progress import Progress
from ptd_core.records import checkpoint, files
from ptd_core.run import execute
from ptd_core.views import curves


class Silent(Progress):
    def print(self, text):
        pass


class Halves(io.FileIO):
    """A file whose every write can be interrupted in its middle."""

    tick = staticmethod(lambda: None)

    def write(self, content):
        middle = len(content) // 2
        super().write(content[:middle])
        self.tick()
        super().write(content[middle:])
        self.tick()
        return len(content)


def run_and_count(recipe, counter, kill_at, share):
    """Execute a run, counting events in shared memory; SIGKILL this process when they reach `kill_at`."""
    torch.set_num_threads(1)
    curves.save_figure = sketch
    checkpoint.SHARE = share

    def tick():
        counter.value += 1
        if counter.value == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function):
        def wrapped(*arguments, **options):
            tick()
            result = function(*arguments, **options)
            tick()
            return result

        return wrapped

    HybridViT.forward = around(HybridViT.forward)
    os.replace, os.fsync = around(os.replace), around(os.fsync)
    Halves.tick = staticmethod(tick)
    files.open = lambda path, mode: Halves(path, mode)
    execute(recipe, Silent())


def full_disk(recipe, limit, answer):
    """Execute a run in which no file may grow beyond `limit` bytes from the second epoch on."""
    torch.set_num_threads(1)
    curves.save_figure = sketch

    class Limit(Silent):
        def epoch(self, record, epochs, left):
            if record.epoch == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    try:
        execute(recipe, Limit())
        answer.put("finished")
    except OutputError as error:
        answer.put(str(error))
