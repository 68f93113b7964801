"""One whole run: data, training, checkpoints, records, figures. Chapters and the command line both call `execute`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from ptd_core.data.dataset import Dataset
from ptd_core.errors import DataError, OutputError, TrainingError
from ptd_core.evaluation.model_card import ModelCard
from ptd_core.machine.interrupt import Interrupt, Stopped
from ptd_core.machine.ranks import Ranks
from ptd_core.progress import Estimate, Progress, describe, position, standing
from ptd_core.recipe import Recipe
from ptd_core.records import history, run_record
from ptd_core.records.checkpoint import Checkpoint, Checkpoints, Interval
from ptd_core.records.event_log import EventLog, refuse_absent
from ptd_core.records.folders import RunFolder
from ptd_core.records.history import EpochRecord
from ptd_core.records.ledger import time_ledger
from ptd_core.records.run_record import ModelFacts, Results, RunRecord, Times, refuse_other_data, refuse_other_settings
from ptd_core.records.stamp import joined, stamp
from ptd_core.trainer import Probe, Trainer, check
from ptd_core.views.curves import save_run_figures
from ptd_core.vits.weights import refuse_other_architecture


@dataclass(frozen=True)
class Run:
    """A finished run: what it was, what it recorded, and the weights that it stands for, in evaluation mode.

    folder: where everything that it wrote is. record: what its run.json holds.
    """

    recipe: Recipe
    dataset: Dataset
    records: list[EpochRecord]
    model: nn.Module
    trainer: Trainer
    folder: Path
    record: RunRecord

    @property
    def stamp(self) -> str:
        """One line for the foot of a figure."""
        return self.record.stamp_line


def execute(
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    dataset: Dataset | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    probes: tuple[Probe, ...] = (),
) -> Run:
    """Train what the recipe says, or resume it where an earlier call stood, or show it if it is finished.

    dataset: the recipe's data, if the caller has read it already. ranks: the processes that do it as one; this is
    for the one that writes, the others call `run_worker`. probes: what they measure after each evaluated epoch goes
    into the records.

    Raises OutputError if the run's folder holds another recipe's run, is in use by another process or cannot be
    written; DataError; DeviceError; TrainingError after saving what was recorded until then. Ctrl-C and SIGTERM end
    it with KeyboardInterrupt and SystemExit(143) after the step under way, saved to be resumed from there.
    """
    progress = progress or Progress()
    started = time.perf_counter()
    check(recipe, ranks)  # what can be refused is refused before data is read, which may take hours
    refuse_other_architecture(recipe.vit, recipe.weights)
    refuse_absent(recipe.log)
    folder = RunFolder(recipe.run_name, recipe.out_dir)
    with folder.locked():
        checkpoints = Checkpoints(folder.path)
        found = checkpoints.load(progress.print)
        record = RunRecord.read(folder.path)
        there = [theirs for theirs in (record, found) if theirs]
        for theirs in there:  # nothing of another recipe is overwritten
            refuse_other_settings(recipe.settings(), theirs.recipe, folder.path)
        dataset = dataset or recipe.load_dataset()
        digest = dataset.digest  # before training: of many images it takes minutes, which are no time of a checkpoint
        for theirs in there:
            refuse_other_data(digest, theirs.data, folder.path)
        ranks.broadcast((digest, found and found.trainer))
        trainer = Trainer(recipe, dataset, ranks, probes)
        folder.create()  # only now: a refusal above leaves no folder behind
        records = _resume(found, trainer, checkpoints)
        origin = _origin(trainer, found)
        for line in [*describe(trainer, dataset), *standing(trainer, found)]:
            progress.print(line)
        trained = trainer.next_epoch == recipe.epochs
        if trained and not checkpoints.weights.exists():
            _save_weights(trainer, records, checkpoints)  # which somebody has deleted, and the checkpoint has
        if not trained or record is None or not record.finished:
            # Where there is a run.json, what stands beside it belongs to it: not so while training goes on.
            (folder.path / run_record.FILE).unlink(missing_ok=True)
            with Interrupt() as interrupt, EventLog(recipe.log, folder.path, records) as log:
                _train(trainer, records, origin, checkpoints, folder.path, progress, interrupt, log)
                record = _record(trainer, records, origin(), seconds=time.perf_counter() - started)
                _save(trainer, records, record, folder.path)
    return Run(recipe, dataset, records, trainer.headline.eval(), trainer, folder.path, record)


def run_worker(recipe: Recipe, ranks: Ranks) -> None:
    """Train beside the process that writes, in step with it, from where it stands, and write nothing."""
    # First, since a broadcast waits for minutes only, and decoding and reading images that are mapped may take hours.
    dataset = recipe.load_dataset()
    digest = dataset.digest
    theirs, state = ranks.broadcast()
    if digest != theirs:
        raise DataError(
            f"process {ranks.rank}: its images are others (digest {digest}) than those of the process that writes "
            f"({theirs}); all need the same data in data_dir = {recipe.data_dir!r}"
        )
    trainer = Trainer(recipe, dataset, ranks)
    if state is not None:
        trainer.load_state_dict(state)
    with Interrupt() as interrupt:
        for _ in trainer.epochs(may_stop=interrupt.check_of(ranks, trainer.device)):
            pass


def _train(
    trainer: Trainer,
    records: list[EpochRecord],
    origin: Callable[[], dict],
    checkpoints: Checkpoints,
    folder: Path,
    progress: Progress,
    interrupt: Interrupt,
    log: EventLog,
) -> None:
    """Train to the end; `records` grows. A killed process loses what came after its last checkpoint."""
    recipe, estimate = trainer.recipe, Estimate(trainer, progress)
    within = Interval(recipe.checkpoint_seconds)

    def on_step(epoch: int, done: int, steps: int) -> None:
        progress.step(epoch, done, steps)
        estimate(epoch, done)
        if done < steps and within.over:
            with within.timed():
                checkpoints.save(checkpoint())

    def checkpoint() -> Checkpoint:
        return Checkpoint(trainer.state_dict(), records, recipe.settings(), trainer.dataset.digest, origin())

    try:
        for record in trainer.epochs(on_step, interrupt.check_of(trainer.ranks, trainer.device)):
            records.append(record)
            log.add(record)
            progress.epoch(record, recipe.epochs, estimate.left(record))
            # The last checkpoint comes last: a process killed before it writes the others again, to the same end.
            if record.evaluated and record.headline > max(
                (earlier.headline for earlier in records[:-1] if earlier.evaluated), default=-1.0
            ):
                checkpoints.save_best(checkpoint())
            if recipe.keeps_weights(len(records)):
                _save_weights(trainer, records, checkpoints, checkpoints.weights_after(len(records)))
            if len(records) % recipe.checkpoint_every == 0 or trainer.next_epoch == recipe.epochs:
                history.write_csv(records, history.history_file(folder, recipe.chapter))
                _save_weights(trainer, records, checkpoints)
                with within.timed():
                    checkpoints.save(checkpoint())
    except (Stopped, TrainingError) as end:
        if isinstance(end, Stopped):
            checkpoints.save(checkpoint())
        if records:
            _save(trainer, records, _record(trainer, records, origin()), folder)
        progress.close()
        if isinstance(end, Stopped):
            progress.print(
                f"{recipe.run_name} is stopped and saved; the same command resumes it from {position(trainer)}"
            )
        raise
    finally:
        progress.close()


def _origin(trainer: Trainer, found: Checkpoint | None) -> Callable[[], dict]:
    """A function that says where the results come from: of all calls that had a part in them, of which this is one
    unless all is trained. Asked late, since what "auto" is to become is known after the first step."""
    here, trained = stamp(trainer.device), trainer.next_epoch == trainer.recipe.epochs

    def origin() -> dict:
        now = here | {name: getattr(trainer.path, name) for name in ("precision", "attention", "compilation")}
        earlier = now | found.stamp if found else now  # older ones lack some
        return earlier if trained else joined(earlier, now)

    return origin


def _save_weights(
    trainer: Trainer, records: list[EpochRecord], checkpoints: Checkpoints, file: Path | None = None
) -> None:
    description = f"headline weights of run {trainer.recipe.run_name} after {len(records)} epochs"
    checkpoints.save_weights(file or checkpoints.weights, trainer.headline.state_dict(), description)


def _record(trainer: Trainer, records: list[EpochRecord], origin: dict, seconds: float | None = None) -> RunRecord:
    """What run.json holds. seconds: of the call that finished the run; None for a run that is not finished."""
    recipe = trainer.recipe
    with_drop, without = recipe.training_cost(trainer.classes)
    return RunRecord(
        run=recipe.run_name,
        chapter=recipe.chapter,
        seed=recipe.seed,
        finished=seconds is not None,
        recipe=recipe.settings(),
        data=trainer.dataset.digest,
        **origin,
        processes=trainer.ranks.size,
        made=datetime.now(UTC).strftime("%Y-%m-%d"),
        model=ModelFacts(
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
            training_flops_per_image=recipe.cost(trainer.classes).training,
            training_flops=with_drop * trainer.steps_per_epoch * recipe.batch_size,
            predicted_speedup=without / with_drop,
        ),
        epochs=len(records),
        results=Results.of(records),
        times=Times.of(records, seconds),
        time_ledger=time_ledger(records, recipe.vit.patch_tokens),
    )


def _save(trainer: Trainer, records: list[EpochRecord], record: RunRecord, folder: Path) -> None:
    """The records and figures of a run; run.json last, so that it stands for a complete set."""
    recipe = trainer.recipe
    history.write_csv(records, history.history_file(folder, recipe.chapter))
    history.write_metrics(records, recipe.chapter, folder / f"{recipe.chapter}_metrics.csv")
    save_run_figures(recipe, records, folder, record.stamp_line)
    if record.finished:
        ModelCard.of(recipe, trainer.dataset, trainer.model).write(folder, Checkpoints(folder).weights, record)
    record.write(folder)


def _resume(found: Checkpoint | None, trainer: Trainer, checkpoints: Checkpoints) -> list[EpochRecord]:
    """Load an earlier call's state into the trainer; its records, or none."""
    if found is None:
        return []
    try:
        trainer.load_state_dict(found.trainer)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{checkpoints.last}: does not fit this recipe's model ({type(error).__name__}); delete it to train anew"
        ) from None
    return list(found.records)
