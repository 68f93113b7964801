"""Processes forked from one that has imported PyTorch and the library: a start costs no more than what is done then.

Real processes all the same, with streams, an exit status and a death of their own. Where the start itself is the point
(what is imported, how arguments are decoded, what torchrun does) a test starts Python anew.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sketch import sketch

from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.views import curves

PRELOAD = [
    "ranked",
    "killable",
    "mapping",
    "ptd_core.__main__",
    "ptd_core.compare",
    "ptd_core.publish",
    "ptd_core.bench.sections",
]


def server():
    """The multiprocessing context of such processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        places = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(places))
        patch.setenv("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")  # of sweeps in such processes
        multiprocessing.forkserver.ensure_running()
    return context


def run(task: Callable[..., object], *arguments: object, encoding: str = "utf-8") -> subprocess.CompletedProcess:
    """`task`, importable, called in such a process from the root, on a terminal of that encoding."""
    with tempfile.TemporaryDirectory() as folder:
        written = [Path(folder) / name for name in ("stdout", "stderr")]
        process = server().Process(target=_run, args=(task, arguments, written, encoding))
        process.start()
        process.join()
        said = [path.read_bytes().decode(encoding) for path in written]
    return subprocess.CompletedProcess(arguments, process.exitcode, *said)


def run_module(module: str, *arguments: object, encoding: str = "utf-8") -> subprocess.CompletedProcess:
    """`python -m module arguments`."""
    return run(as_module, module, *map(str, arguments), encoding=encoding)


def _run(task, arguments, written, encoding):
    for number, path in enumerate(written, 1):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout = open(1, "w", encoding=encoding, errors="strict", closefd=False)
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)
    called(task, arguments)


class Forked:
    """What is there of Popen, for a task in such a process."""

    stdin = stdout = stderr = None

    def __init__(self, task, *arguments):
        self.process = server().Process(target=task, args=arguments)
        self.process.start()
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.process.is_alive():
            raise subprocess.TimeoutExpired("forked", timeout)
        return self.process.exitcode

    @property
    def returncode(self):
        return self.process.exitcode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.process.terminate()

    def kill(self):
        self.process.kill()


def popen(command, stdout=None, _popen=subprocess.Popen, **options):
    """In place of Popen: `python -m module words` is forked, at the root; all else is started as ever."""
    if command[:2] != [sys.executable, "-m"]:
        return _popen(command, stdout=stdout, **options)
    return Forked(_into, stdout and stdout.name, command[2:])


def _into(path, words):
    if path:
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    called(as_module, words)


def launch_kernel(command, env, cwd=None, **_):
    """In place of `jupyter_client.launcher.launch_kernel`."""
    assert command[1:3] == ["-m", "ipykernel_launcher"]
    kernel = Forked(_kernel, command[2:], env, cwd or os.getcwd())
    while os.getpgid(kernel.pid) != kernel.pid:  # signals go to its group
        time.sleep(0.001)
    return kernel


def _kernel(arguments, environment, folder):
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = arguments
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


def called(task, arguments):
    """In the new process: `task` at the root, on one thread."""
    os.chdir(ROOT)
    torch.set_num_threads(1)
    curves.save_figure = sketch
    task(*arguments)


def as_module(module, *words):
    """In the new process: what `python -m module words` does."""
    sys.argv = [module, *words]
    for imported in (module, f"{module}.__main__"):
        if not hasattr(sys.modules.get(imported), "__path__"):
            sys.modules.pop(imported, None)  # to run anew, as in a process that has just begun
    runpy.run_module(module, run_name="__main__", alter_sys=True)
