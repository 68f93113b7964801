"""What the processes of one job do, started as torchrun would, for tests that look inside them."""

import os
import signal
import socket
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from forked import server
from patience import PATIENCE
from sketch import sketch
from timm.layers import DropPath
from torch import nn

from ptd_core.machine.dropout import Dropout
from ptd_core.machine.ranks import GlobalBatchNorm2d, Ranks
from ptd_core.progress import Progress
from ptd_core.records.history import history_file, read_csv
from ptd_core.run import execute, run_worker
from ptd_core.views import curves


def together(task, *arguments, size=2):
    """What `task(ranks, *arguments)` returns in each of `size` processes, in their order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(size, server()) as pool:
        answers = [pool.submit(_join, rank, size, port, task, arguments) for rank in range(size)]
        return [answer.result(timeout=PATIENCE) for answer in answers]


def _join(rank, size, port, task, arguments):
    torch.set_num_threads(1)
    curves.save_figure = sketch
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    with Ranks.joined("cpu") as ranks:
        return task(ranks, *arguments)


class Cut(Progress):
    """Progress that keeps what it prints, and sends its own process a signal after the given (epoch, step), if any."""

    def __init__(self, at=None, number=signal.SIGTERM):
        super().__init__(bar=False)
        self.at, self.number = at, number
        self.printed = []

    def print(self, text):
        self.printed.append(text)

    def step(self, epoch, done, steps):
        if (epoch, done) == self.at:
            os.kill(os.getpid(), self.number)


def run(ranks, recipe, cut=None):
    """One call of a run; whether it was stopped."""
    try:
        if ranks.writes:
            execute(recipe, Cut(cut), ranks=ranks)
        else:
            run_worker(recipe, ranks)
    except SystemExit as end:
        return end.code == 128 + signal.SIGTERM
    return False


def run_in_pieces(ranks, recipe, cuts):
    """A run that is stopped after each of the given (epoch, step), and resumed; whether each call was stopped."""
    return [run(ranks, recipe, cut) for cut in (*cuts, None)]


def run_several(ranks, *runs):
    """Several (recipe, cuts) one after another in one job; what `run_in_pieces` returns for each."""
    return [run_in_pieces(ranks, recipe, cuts) for recipe, cuts in runs]


def run_and_listen(ranks, recipe):
    """What a run printed."""
    progress = Cut()
    if ranks.writes:
        execute(recipe, progress, ranks=ranks)
    else:
        run_worker(recipe, ranks)
    return progress.printed


def run_and_watch(ranks, recipe):
    """A run's choices: for each training step which values dropout made 0, and which rows drop-path did."""
    steps = []

    def watch(module, inputs, output):
        if not isinstance(output, torch.Tensor) or output.is_meta:  # the latter only counts operations
            return
        if module.training and isinstance(module, Dropout):
            steps[-1][0].append((output == 0).flatten()[:500])
        if module.training and isinstance(module, DropPath):
            steps[-1][1].append((output == 0).flatten(1).all(1))

    def begin(module, inputs):
        if isinstance(module, nn.parallel.DistributedDataParallel):
            steps.append(([], []))

    hooks = [
        nn.modules.module.register_module_forward_hook(watch),
        nn.modules.module.register_module_forward_pre_hook(begin),
    ]
    run(ranks, recipe)
    for hook in hooks:
        hook.remove()
    return [tuple(torch.cat(kind).numpy() for kind in step) for step in steps]


def normalise_a_shard(ranks, norm, images, weights):
    """A training step's output, statistics and gradients of `norm` over all processes, for this one's shard."""
    (shared,) = ranks.global_batch_norm(nn.Sequential(norm))
    assert type(shared) is GlobalBatchNorm2d and shared.state_dict().keys() == norm.state_dict().keys()
    shard = ranks.shard(images).clone().requires_grad_()
    out = shared(shard)
    (out * ranks.shard(weights)).sum().backward()
    found = (out.detach(), shard.grad, shared.running_mean, shared.running_var, shared.weight.grad, shared.bias.grad)
    return [tensor.numpy() for tensor in found]


def run_each(ranks, recipes, cut):
    """Each recipe once whole and once stopped at `cut`; for each whether the losses of all epochs are equal."""
    same = []
    for whole in recipes:
        pieces = whole.replace(run=f"{whole.run}_in_pieces")
        run(ranks, whole)
        assert run_in_pieces(ranks, pieces, [cut]) == [True, False]
        if ranks.writes:
            one, other = (read_csv(history_file(Path(r.out_dir) / "runs" / r.run, r.chapter)) for r in (whole, pieces))
            same.append([(r.train_loss, r.test_loss) for r in one] == [(r.train_loss, r.test_loss) for r in other])
    return same
