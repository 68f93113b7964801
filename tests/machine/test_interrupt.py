"""Ctrl-C, the stop button and SIGTERM: the step ends, all is saved, and resuming equals not having stopped."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import jupyter_client
import pytest
import torch
from conftest import TINY, Lines, equal, without_clocks
from patience import PATIENCE

from ptd_core.machine.interrupt import Interrupt, Stopped
from ptd_core.machine.randomness import random_state, set_random_state
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.records import history
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.run import execute
from ptd_core.step import TrainingStep
from ptd_core.trainer import Trainer


class SignalAt(Lines):
    """Sends this process a signal at the given (epoch, steps done) points, each once."""

    def __init__(self, number, *points):
        super().__init__()
        self.number, self.points = number, list(points)

    def step(self, epoch, done, steps):
        if (epoch, done) in self.points:
            self.points.remove((epoch, done))
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def _ctrl_c_is_not_ignored():
    """As in a terminal, also where the tests run as a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def comparable(record):
    return record.model_dump(exclude={"times", "time_ledger", "made"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was never stopped."""
    torch.set_num_threads(1)
    from ptd_core.recipe import Recipe

    return execute(Recipe(**{**TINY, "out_dir": str(tmp_path_factory.mktemp("whole")), "run": "tiny"}), Lines())


def assert_same_end(done, whole):
    assert without_clocks(done.records) == without_clocks(whole.records)
    assert equal(done.trainer.state_dict(), whole.trainer.state_dict())
    assert comparable(done.record) == comparable(whole.record)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_stopped_within_epochs_and_resumed_equals_never_stopped(tiny, tmp_path, whole, number, raised):
    """Dropout, drop-path, mixing, noise and the moving average all go on where they stood, bit for bit."""
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    folder = tmp_path / "runs" / "tiny"
    progress = Lines()
    for epoch, step in ((0, 1), (1, 2), (1, 3), (2, 5)):
        stopping = SignalAt(number, (epoch, step))
        with pytest.raises(raised) as caught:
            execute(tiny(), stopping)
        if raised is SystemExit:
            assert caught.value.code == 143
        assert f"resumes it from epoch {epoch + 1}, after step {step} of 5" in stopping.printed[-1]
        if epoch:
            assert len(history.read_csv(folder / "ptd_history.csv")) == epoch
            assert json.loads((folder / "run.json").read_text())["finished"] is False
            assert (folder / "ptd_accuracy.png").read_bytes().startswith(b"\x89PNG")
        torch.rand(7)  # another process would have another random state
        progress = Lines()
    done = execute(tiny(), progress)
    assert any("is resumed from epoch 3, after step 5 of 5" in line for line in progress.printed)
    assert_same_end(done, whole)
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


def test_stopped_in_evaluation_does_not_train_the_epoch_again(tiny, whole, monkeypatch):
    evaluate, calls = Trainer.evaluate, []

    def signal_in_second(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 5:  # three evaluations an epoch: the second one of epoch 1
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "evaluate", signal_in_second)
    with pytest.raises(KeyboardInterrupt):
        execute(tiny(), Lines())
    assert len(calls) == 5
    steps = []
    progress = Lines()
    progress.step = lambda epoch, done, _: steps.append((epoch, done))
    done = execute(tiny(), progress)
    assert steps == [(2, step) for step in range(1, 6)]
    assert_same_end(done, whole)


def test_signal_after_the_last_step_is_obeyed_when_all_is_saved(tiny, tmp_path, whole):
    class AtTheEnd(Lines):
        def epoch(self, record, epochs, left):
            if record.epoch == epochs - 1:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        execute(tiny(), AtTheEnd())
    assert json.loads((tmp_path / "runs" / "tiny" / "run.json").read_text())["finished"] is True
    progress = Lines()
    assert_same_end(execute(tiny(), progress), whole)
    assert any("is finished" in line for line in progress.printed)


def test_training_time_counts_all_calls(tiny, tmp_path, whole, monkeypatch):
    def slowly(self, batch, keep, side, step=TrainingStep.__call__):
        time.sleep(0.15)
        return step(self, batch, keep, side)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingStep, "__call__", slowly)
        execute(tiny(), SignalAt(signal.SIGINT, (0, 2)))
    assert Checkpoints(tmp_path / "runs" / "tiny").load(print).trainer["partial"]["seconds"] >= 0.3
    done = execute(tiny(), Lines())
    assert done.records[0].train_seconds >= 0.3
    assert done.records[0].images_per_second == pytest.approx(160 / done.records[0].train_seconds)


def test_first_signal_waits_for_the_check_and_the_second_does_not():
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        with pytest.raises(Stopped):
            interrupt.check()


def test_without_a_signal_nothing_happens_and_other_errors_pass():
    with Interrupt() as interrupt:
        interrupt.check()
    with pytest.raises(ValueError, match="mine"), Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("mine")


def test_ignored_signals_stay_ignored():
    """A shell's background jobs ignore Ctrl-C, which is meant for the program in front."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            interrupt.check()
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_a_run_works_without_signals(tiny, whole):
    """Schedulers run tasks in threads, where Python cannot catch signals."""
    answers = queue.Queue()

    def work():
        torch.set_num_threads(1)
        answers.put(execute(tiny(), Lines()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert_same_end(answers.get_nowait(), whole)


def test_random_state_goes_on_where_it_was_taken():
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    for device in map(torch.device, devices):
        torch.manual_seed(0)
        torch.rand(3, device=device)
        state = random_state(device)
        assert set(state) == {"cpu", device.type} and all(part.device.type == "cpu" for part in state.values())
        expected = torch.rand(5, device=device), torch.rand(5)
        torch.manual_seed(1)
        set_random_state(device, state)
        assert equal(expected, (torch.rand(5, device=device), torch.rand(5)))


def test_other_device_or_versions_are_printed(tiny, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        execute(tiny(), SignalAt(signal.SIGINT, (1, 2)))
    monkeypatch.setattr("ptd_core.records.stamp.describe_device", lambda device: "another machine")
    progress = Lines()
    done = execute(tiny(), progress)
    assert any("now another machine" in line and "rounding" in line for line in progress.printed)
    here, there = done.record.device.split("; ")
    assert "thread" in here and there == "another machine" and done.record.precision == "fp32"
    monkeypatch.setattr("ptd_core.records.stamp.describe_device", lambda device: "a third one")
    (done.folder / "run.json").unlink()  # made again from the checkpoint, for which nothing is trained
    assert execute(tiny(), Lines()).record.device == done.record.device


def test_progress_may_stop_a_run_which_is_saved_then(tiny):
    """As the worker of a sweep does that is being closed."""

    class CalledOff(Lines):
        def step(self, epoch, done, steps):
            if (epoch, done) == (1, 2):
                raise Stopped

    with pytest.raises(Stopped):
        execute(tiny(), CalledOff())
    progress = Lines()
    execute(tiny(), progress)
    assert "tiny is resumed from epoch 2, after step 2 of 5" in progress.printed


def test_weights_that_were_deleted_are_there_again(tiny):
    """They are in the checkpoint."""
    done = execute(tiny(), Lines())
    file = done.folder / "weights.safetensors"
    before = file.read_bytes()
    for also in ((), ("run.json",)):
        for name in (file.name, *also):
            (done.folder / name).unlink()
        again = execute(tiny(), Lines())
        assert file.read_bytes() == before and again.record.results == done.record.results


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_command_line_stops_with_the_status_of_its_signal(tmp_path, whole, number, status):
    recipe = {**TINY, "out_dir": str(tmp_path), "run": "tiny", "epochs": 200, "drop_end": 2}
    parameters = tmp_path / "p.yaml"
    parameters.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in recipe.items()))
    command = [sys.executable, "-m", "ptd_core", str(parameters)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stdout:
        if line.startswith("epoch   2/"):
            process.send_signal(number)
            break
    out, err = process.communicate()
    assert process.returncode == status
    assert "is stopped and saved" in out and err == ""
    records = history.read_csv(tmp_path / "runs" / "tiny" / "ptd_history.csv")
    assert 2 <= len(records) < 200
    assert json.loads((tmp_path / "runs" / "tiny" / "run.json").read_text())["epochs"] == len(records)
    state = Checkpoints(tmp_path / "runs" / "tiny").load(print).trainer
    assert state["next_epoch"] == len(records) and state["partial"] is not None


@pytest.mark.slow
def test_stop_button_in_a_notebook(tmp_path, whole, forked_kernels):
    """JupyterLab's stop button interrupts the kernel: the cell shows KeyboardInterrupt, the next one goes on."""
    cell = (
        "import torch; torch.set_num_threads(1)\n"
        "from ptd_core.recipe import Recipe\nfrom ptd_core.run import execute\n"
        f"recipe = Recipe(**{ {**TINY, 'out_dir': str(tmp_path), 'run': 'tiny'} })\n"
    )
    slow = (
        "import time\nfrom ptd_core.progress import Progress\n"
        "class Slow(Progress):\n    def step(self, *where):\n        time.sleep(0.1)\n"
    )
    manager = jupyter_client.KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=ROOT)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)

        def output(message):
            if message["msg_type"] == "stream" and message["content"]["text"].startswith("epoch   1/3"):
                manager.interrupt_kernel()

        reply = client.execute_interactive(
            cell + slow + "execute(recipe, Slow())", output_hook=output, timeout=PATIENCE
        )
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        partial = Checkpoints(tmp_path / "runs" / "tiny").load(print).trainer["partial"]
        assert partial is not None
        reply = client.execute_interactive("done = execute(recipe)", output_hook=output, timeout=PATIENCE)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    state = Checkpoints(tmp_path / "runs" / "tiny").load(print)
    assert equal(state.trainer, whole.trainer.state_dict())
    assert without_clocks(state.records) == without_clocks(whole.records)
