"""Run cells on the devices of this machine: side by side on several devices, and one after another in warm processes.

Each device has a slot that trains and samples, and a GPU has a second slot that measures the samples of a cell while
the next cell trains. A slot keeps its process between cells, so that libraries are imported and networks of one shape
are compiled once. A cell that fails in a process that had run others before, or beside another slot, runs once more
alone in a fresh process, unless the program itself found the fault: so a cell costs only itself. Efficiency comes last,
alone on the host, in a fresh process for each measurement.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from zigma_bench.errors import ComparisonRefused, Interrupted
from zigma_bench.plan import Cell, Stage
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.records.store import has_writer, owner_of
from zigma_bench.run.estimate import Estimator
from zigma_bench.run.executors.executor import CellOutcome, RunPlace
from zigma_bench.run.executors.options import LocalOptions
from zigma_bench.run.executors.tasks import (
    DueCell,
    exit_reason,
    find_task,
    stages_together,
    still_due,
    write_failed_record,
)
from zigma_bench.run.executors.worker_process import Job, WorkerProcess, threads_per_worker
from zigma_bench.run.process import INTERRUPTED
from zigma_bench.system.device import Device

WAIT_SECONDS = 0.5  # between two checks of a lock, or of a timeout
DISMISS_SECONDS = 30.0  # for an idle worker to end; then it is killed
GRACE_SECONDS = 8.0  # for a worker to save a checkpoint after a request to stop; then it is killed


@dataclass
class Slot:
    """A place for one job at a time. `measures`: only the stage quality, beside the slot that trains on this device."""

    device: Device
    measures: bool = False
    worker: WorkerProcess | None = None
    job: Job | None = None


class LocalExecutor:
    """Runs cells on the devices of this machine."""

    def __init__(self, options: LocalOptions) -> None:
        self.options = options

    def run_cells(self, cells: Sequence[Cell], place: RunPlace) -> list[CellOutcome]:
        """Run the cells; see `Executor`."""
        return _LocalRun(cells, place, self.options).run()


class _LocalRun:
    """The state of one call of `run_cells`, by the folder of each cell."""

    def __init__(self, cells: Sequence[Cell], place: RunPlace, options: LocalOptions) -> None:
        self.cells, self.place, self.options = cells, place, options
        self.outcomes = dict[int, CellOutcome]()  # by the position of the cell
        self.positions = {id(cell): number for number, cell in enumerate(cells)}
        self.pending = deque(order_cells(cells, place))
        self.to_measure = deque[DueCell]()
        self.elsewhere = list[DueCell]()  # cells that another process works on
        self.retries, self.alone = list[DueCell](), list[DueCell]()
        overlap = options.overlap and all(cell.train_seconds is None for cell in cells)  # a slot would take their time
        self.slots = [Slot(device) for device in place.devices]
        self.slots += [Slot(device, measures=True) for device in place.devices if overlap and device.type == "cuda"]
        self.threads = threads_per_worker(place.devices, len(self.slots))
        self.fresh = False  # whether each job gets a fresh process, and its failure is final

    def run(self) -> list[CellOutcome]:
        try:
            self._work(self.slots, self._next_job)
            self._dismiss_workers()
            self.fresh = True
            self._run_again()
            self._run_alone()
        except (KeyboardInterrupt, Interrupted) as stop:
            self._stop_workers()
            raise Interrupted(str(stop) or INTERRUPTED) from None
        except BaseException:
            self._stop_workers()
            raise
        finally:
            self._kill_workers()
        return [self.outcomes[number] for number in range(len(self.cells))]

    # What runs next

    def _next_job(self, slot: Slot) -> Job | None:
        """The next job for a slot, or None if there is none now."""
        if slot.measures:
            return self._make_job(self.to_measure.popleft(), ("quality",)) if self.to_measure else None
        self._recall_free_cells()
        while self.pending:
            task = find_task(self.pending.popleft(), self.place)
            if isinstance(task, CellOutcome):
                self.place.watcher.begin(task.cell, ())
                self._finish_cell(task)
            elif task.busy is not None:
                self._wait_for(task)
            elif (job := self._first_job(task)) is not None:
                return job
        return None

    def _first_job(self, task: DueCell) -> Job | None:
        """The first job of a cell; None if another slot takes it, or if only efficiency is due."""
        stages = stages_together(task.cell, self.place.stages)
        due = [stage for stage in task.due if stage in stages]
        if not due:
            self.alone.append(task)
            return None
        if self._has_measuring_slot(task.cell):
            if due == ["quality"]:
                self.to_measure.append(task)
                return None
            stages = tuple(stage for stage in stages if stage != "quality")
        self.place.watcher.begin(task.cell, task.due)
        return self._make_job(task, stages)

    def _make_job(self, task: DueCell, stages: tuple[Stage, ...]) -> Job:
        return Job(task, stages, stages[0])

    def _has_measuring_slot(self, cell: Cell) -> bool:
        return not self.fresh and not cell.smoke and any(slot.measures for slot in self.slots)

    def _wait_for(self, task: DueCell) -> None:
        assert task.busy is not None
        text = f"waiting for {owner_of(task.busy)} to finish it"
        self.place.watcher.event(task.cell, {"event": "notice", "text": text})
        self.elsewhere.append(task)

    def _recall_free_cells(self) -> None:
        """Queue the cells that another process has finished with."""
        for task in list(self.elsewhere):
            if task.busy is None or not has_writer(task.busy):
                self.elsewhere.remove(task)
                self.pending.append(task.cell)

    # The loop over events

    def _work(self, slots: Sequence[Slot], next_job: Callable[[Slot], Job | None]) -> None:
        """Run jobs on slots until there are none left."""
        while True:
            for slot in slots:
                if slot.job is None and (job := next_job(slot)) is not None:
                    self._start(slot, job)
            if any(slot.job is not None for slot in slots):
                self._read_events(slots)
            elif self.elsewhere:
                time.sleep(WAIT_SECONDS)
            elif not self.pending and not self.to_measure:
                return

    def _start(self, slot: Slot, job: Job) -> None:
        """Give a job to a slot. A disk error fails only its cell."""
        try:
            self._send(slot, job)
        except OSError as error:
            slot.job = None
            self._fail(job, reason_of(error))

    def _send(self, slot: Slot, job: Job) -> None:
        if slot.worker is not None and (self.fresh or not self.options.warm):
            self._dismiss(slot)
        if slot.worker is None:
            slot.worker = WorkerProcess(slot.device, job.log, threads=self.threads)
        slot.job = job
        slot.worker.send(job, self.place)

    def _read_events(self, slots: Sequence[Slot]) -> None:
        """Wait for events, pass them on, and end stages that exceed their timeout."""
        with selectors.DefaultSelector() as selector:
            for slot in slots:
                if slot.worker is not None:
                    selector.register(slot.worker.output, selectors.EVENT_READ, slot)
            ready = [key.data for key, _ in selector.select(WAIT_SECONDS)]
        for slot in ready:
            self._read_worker(slot)
        for slot in slots:
            self._check_timeout(slot)

    def _read_worker(self, slot: Slot) -> None:
        assert slot.worker is not None
        events, closed = slot.worker.read()
        for event in events:
            if event["event"] == "end":
                job, slot.job = slot.job, None
                assert job is not None
                if event["retired"] is not None:
                    self._dismiss(slot)
                self._job_done(job)
            elif slot.job is not None:
                slot.job.note(event)
                self.place.watcher.event(slot.job.task.cell, event)
        if closed and slot.worker is not None:
            worker, slot.worker = slot.worker, None
            code = worker.wait()
            if slot.job is not None:
                job, slot.job = slot.job, None
                self._job_died(job, code, shared=worker.jobs > 1 or len(self.slots) > 1)

    def _check_timeout(self, slot: Slot) -> None:
        if slot.job is None or slot.worker is None or slot.job.timed_out or slot.job.began is None:
            return
        limit = self.place.timeouts.get(slot.job.stage)
        if limit is not None and time.monotonic() - slot.job.began > limit:
            slot.job.timed_out, slot.job.known = True, True
            do = f"raise --timeout {slot.job.stage}=SECONDS"
            slot.job.reason = f"it took longer than its timeout of {limit:g} s; {do}"
            slot.worker.kill()

    # What a job's end means

    def _job_done(self, job: Job) -> None:
        task = job.task
        if job.busy:
            self._wait_for(DueCell(task.cell, task.folder, task.due, task.folder))
            return
        left = self._left_of(job)
        if left is None:
            return
        if "efficiency" in left and set(left) == {"efficiency"}:
            self.alone.append(task)
        elif "quality" in left and "quality" not in job.stages and self._has_measuring_slot(task.cell):
            self.to_measure.append(task)
        elif left:
            self._fail(job, f"{left[0]} is due again: the files of the cell change during the run")
        else:
            self._finish_cell(CellOutcome(task.cell, task.folder, "done"))

    def _left_of(self, job: Job) -> tuple[Stage, ...] | None:
        """The stages of the job's cell that are still due; None if its files can't be read, which fails the cell."""
        try:
            return still_due(job.task, self.place)
        except (OSError, ComparisonRefused) as error:
            self._fail(job, reason_of(error))
            return None

    def _job_died(self, job: Job, code: int, *, shared: bool) -> None:
        """The process of a job has ended before the job was done."""
        if code == Interrupted.exit_code:
            raise Interrupted(job.reason or INTERRUPTED)
        left = self._left_of(job)
        if left is None:
            return
        silent = job.reason is None
        if (silent or job.timed_out) and not set(left) & set(job.stages):
            self._job_done(job)  # it died after its last record
            return
        reason = exit_reason(code, job.log) if silent else str(job.reason)
        if shared and not job.known and not self.fresh:
            text = f"{job.stage} failed ({reason}) where other cells had run; it runs again alone in a fresh process"
            self.place.watcher.event(job.task.cell, {"event": "notice", "text": text})
            self.retries.append(job.task)
            return
        if (silent or job.timed_out) and job.stage in left:
            with contextlib.suppress(OSError):  # on a full disk, only the outcome contains the reason
                write_failed_record(job.task, self.place, job.stage, reason)
        self._fail(job, reason, reported=not (silent or job.timed_out))

    def _fail(self, job: Job, reason: str, *, reported: bool = False) -> None:
        """End a cell as failed. `reported`: its worker has reported the failure."""
        if not reported:
            self.place.watcher.event(job.task.cell, {"event": "failed", "stage": job.stage, "text": reason})
        self._finish_cell(CellOutcome(job.task.cell, job.task.folder, "failed", f"{job.stage}: {reason}"))

    def _finish_cell(self, outcome: CellOutcome) -> None:
        self.outcomes[self.positions[id(outcome.cell)]] = outcome
        self.place.watcher.end(outcome.cell)

    # Alone

    def _run_again(self) -> None:
        """Run cells that failed where others had run again, one at a time on the host."""
        self.pending.extend(task.cell for task in self.retries)
        self._work(self.slots[:1], self._next_job)

    def _run_alone(self) -> None:
        """Measure efficiency, alone on the host and with all of its cores. The cells alternate between rounds."""
        self.threads = threads_per_worker(self.place.devices[:1], 1)
        due, self.alone = sorted(self.alone, key=lambda task: self.positions[id(task.cell)]), []
        rounds = max((task.cell.efficiency.rounds for task in due if task.cell.efficiency is not None), default=0)
        for _ in range(rounds):
            for task in due:
                self._run_round(task)
            due, self.alone = self.alone, []
        for task in due:
            reason = "efficiency: it is still due after its last round: its files change during the run"
            self._finish_cell(CellOutcome(task.cell, task.folder, "failed", reason))

    def _run_round(self, task: DueCell) -> None:
        self._dismiss_workers()
        waiting = [task]

        def next_job(slot: Slot) -> Job | None:
            for busy in [one for one in self.elsewhere if one.busy is not None and not has_writer(one.busy)]:
                self.elsewhere.remove(busy)
                waiting.append(busy)
            return self._make_job(waiting.pop(), ("efficiency",)) if waiting else None

        self.place.watcher.begin(task.cell, ("efficiency",))
        self._work(self.slots[:1], next_job)

    # Processes

    def _dismiss(self, slot: Slot) -> None:
        """End the idle process of a slot."""
        worker, slot.worker = slot.worker, None
        if worker is not None:
            worker.dismiss()
            _wait_for_end([worker], DISMISS_SECONDS)
            worker.kill()
            worker.wait()

    def _dismiss_workers(self) -> None:
        for slot in self.slots:
            self._dismiss(slot)

    def _stop_workers(self) -> None:
        """Ask all workers to stop, and wait until they have saved their work; kill those that take too long."""
        workers = [slot.worker for slot in self.slots if slot.worker is not None]
        for worker in workers:
            worker.interrupt()
        _wait_for_end(workers, GRACE_SECONDS)

    def _kill_workers(self) -> None:
        for slot in self.slots:
            if slot.worker is not None:
                slot.worker.kill()
                slot.worker.wait()
                slot.worker = None


def _wait_for_end(workers: Sequence[WorkerProcess], seconds: float) -> None:
    """Wait until the processes have ended, for at most so long."""
    deadline = time.monotonic() + seconds
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)


def order_cells(cells: Sequence[Cell], place: RunPlace) -> list[Cell]:
    """The order in which cells run: all rows of a seed before the next seed, so that a run that is stopped leaves equal
    numbers of seeds; within a seed data set by data set, and on several devices the longest cells first."""
    seeds, sets = _ranks(cell.seed for cell in cells), _ranks(cell.data_fingerprint for cell in cells)
    seconds = [0.0] * len(cells)
    if len(place.devices) > 1:
        estimator = Estimator(place.results, place.device)
        seconds = [estimator(cell).seconds or 0.0 for cell in cells]
    keys = [
        (seeds[cell.seed], sets[cell.data_fingerprint], -length) for cell, length in zip(cells, seconds, strict=True)
    ]
    return [cells[number] for number in sorted(range(len(cells)), key=lambda number: keys[number])]


def _ranks(values: Iterable[object]) -> dict[object, int]:
    """The rank of each value, by its first occurrence."""
    return {value: number for number, value in enumerate(dict.fromkeys(values))}
