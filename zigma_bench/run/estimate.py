"""Estimate the time and memory that a cell will need, and name the source of the estimate."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused
from zigma_bench.plan import Cell
from zigma_bench.records.record import Record
from zigma_bench.records.store import read_record, stage_folder
from zigma_bench.run.due import all_cell_folders
from zigma_bench.run.fitted_costs import FittedCosts, fit_costs
from zigma_bench.run.spent import SpentTimes
from zigma_bench.run.timed import CallKind, CallName, MeasuredCall, features_of, kind_of, timed_calls
from zigma_bench.system.device import Device, core_count, precision_on

# A network of small matrices and scans reaches about this share of the speed of one large matrix product.
SHARE_OF_MATMUL = 0.15
FACTOR_OF_FLOPS = 3.0  # of an estimate that only knows the FLOPs
SIDE, PRODUCTS = 1024, 5  # of the matrix products that are timed on a CPU
NOTHING = "nothing is computed"
LOSS_TIMES = 8  # times of the validation loss
ADAPTIVE_EVALUATIONS = 100  # a typical number for dopri5


@dataclass(frozen=True)
class Estimate:
    """The seconds for training and sampling a cell, its peak memory in bytes, and the source; None if unknown.

    `records`: the number of records behind it. The time is expected between `seconds` times the two `factors`.
    """

    seconds: float | None
    source: str
    bytes: float | None = None
    records: int = 0
    factors: tuple[float, float] = (1.0, 1.0)

    @property
    def range_seconds(self) -> tuple[float, float] | None:
        """The range in which the time is expected; None if it is unknown."""
        return None if self.seconds is None else (self.seconds * self.factors[0], self.seconds * self.factors[1])


class Estimator:
    """Estimates for one device, from the records in a results folder, which is read once.

    The source is the cell's own efficiency record on this device; else costs fitted to the records of similar cells on
    it; else the time per FLOP of trainings and samplings of such networks on it; else, on a CPU, FLOPs.
    """

    def __init__(self, results: Path, device: Device) -> None:
        self.results, self.device = results, device
        self._fits: dict[tuple[CallKind, str], FittedCosts | str] = {}

    def __call__(self, cell: Cell) -> Estimate:
        if cell.timed_alone:
            return Estimate(None, "the duration of an efficiency suite can't be estimated")
        if cell.backbone is None:  # a reference row of held-out or reconstructed images
            return Estimate(0.0, NOTHING)
        if (speeds := self._measured(cell)) is not None:
            return speeds
        fitted = self._fitted(cell)
        if fitted.seconds is not None:
            return fitted
        if (spent := self._spent(cell)) is not None:
            return spent
        if self.device.type != "cpu":
            return fitted
        flops = sum(cell.forward_flops.values())
        seconds = flops / (self._matmul_rate * SHARE_OF_MATMUL)
        factors = (1 / FACTOR_OF_FLOPS, FACTOR_OF_FLOPS)
        source = f"FLOPs, to a factor of {FACTOR_OF_FLOPS:g}"
        return Estimate(_total(cell, 3 * seconds, seconds), source, factors=factors)

    def _measured(self, cell: Cell) -> Estimate | None:
        if cell.role != "cell" or cell.efficiency is None:
            return None
        record = self._efficiency_record(cell)
        values = {m.name: m.value for m in record.measurements} if record else {}
        train, sample = values.get("train-images-per-second"), values.get("sample-images-per-second")
        if not train or not sample:
            return None
        peaks = [value for name in ("train-step", "sample") if (value := values.get(f"{name}-peak-memory")) is not None]
        seconds = _total(cell, 1 / train, 1 / sample / _evaluations(cell))
        raws = [m.raw for m in record.measurements if m.name == "train-images-per-second" and m.raw] if record else []
        middle = statistics.median(raws[0]) if raws else 1.0
        factors = (min(raws[0]) / middle, max(raws[0]) / middle) if raws else (1.0, 1.0)
        return Estimate(seconds, "its efficiency record", max(peaks, default=None), 1, factors)

    def _efficiency_record(self, cell: Cell) -> Record | None:
        """The cell's efficiency record on this device, from any run of its suite."""
        identity = cell.identity("efficiency", device_model=self.device.model_name)
        for folder in all_cell_folders(self.results, cell):
            try:
                record = read_record(stage_folder(folder, "efficiency", identity), identity)
            except ComparisonRefused as error:
                print(f"zigma-bench: left out of the estimates: {error}", file=sys.stderr)
                continue
            if record is not None:
                return record
        return None

    def _fitted(self, cell: Cell) -> Estimate:
        """The estimate from the fitted costs of a training step and an evaluation, with the errors of both fits."""
        written, trains = cell.model_dump(mode="json"), cell.role == "cell"
        calls: dict[CallName, int] = {"forward": min(cell.sample.batch, cell.sample.count)}
        if trains:
            calls["train-step"] = cell.train.batch
        each, peaks, sources, fits = {"train-step": 0.0}, [], [], []
        for call, batch in calls.items():
            costs = self._costs(kind_of(written, call, self.device.model_name, self._precision(cell)), cell.backend)
            if isinstance(costs, str):
                return Estimate(None, f"{call}: {costs}")
            features = features_of(written, batch)
            each[call] = costs.seconds.predict(features) / batch
            peaks.append(costs.peak.predict(features))
            sources.append(f"{call} {costs.source}")
            fits.append(costs)
        seconds, worst = _total(cell, each["train-step"], each["forward"]), 1 + max(fit.worst for fit in fits)
        records = max(fit.cells for fit in fits)
        return Estimate(seconds, "; ".join(sources), max(peaks), records, (1 / worst, worst))

    def _spent(self, cell: Cell) -> Estimate | None:
        """The estimate from the time that trainings and samplings of the same operators took here, per FLOP."""
        precision, flops = self._precision(cell), sum(cell.forward_flops.values())
        sampling = self._spent_times.of_sampling(cell, precision)
        training = self._spent_times.of_training(cell, precision) if cell.role == "cell" else sampling
        if sampling is None or training is None:
            return None
        seconds = _total(cell, 3 * flops * training.seconds, flops * sampling.seconds)
        factor, records = max(training.factor, sampling.factor), min(training.records, sampling.records)
        source = (
            f"the time per FLOP of {training.records} trainings and {sampling.records} samplings of such networks here"
        )
        return Estimate(seconds, source, records=records, factors=(1 / factor, factor))

    @cached_property
    def _spent_times(self) -> SpentTimes:
        return SpentTimes(self.results, self.device.model_name)

    def _costs(self, kind: CallKind, backend: str) -> FittedCosts | str:
        key = (kind, backend)
        if key not in self._fits:
            self._fits[key] = fit_costs(self._timed, kind, backend)
        return self._fits[key]

    def _precision(self, cell: Cell) -> str:
        return precision_on(self.device.type, cell.train.precision)

    @cached_property
    def _timed(self) -> list[MeasuredCall]:
        return timed_calls(self.results, self.device.model_name)

    @cached_property
    def _matmul_rate(self) -> float:
        return matmul_rate()


def matmul_rate() -> float:
    """FLOP/s of float32 products of two 1,024 x 1,024 matrices on the cores that PyTorch would use.

    It is the CPU time of one thread that is measured, and the shortest of several products, so that the result is the
    same while other programs keep the cores busy.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    a: Any = np.ones((SIDE, SIDE), dtype=np.float32)
    times = []
    with threadpool_limits(limits=1):
        for _ in range(PRODUCTS):
            start = time.thread_time()
            a @ a
            times.append(time.thread_time() - start)
    return thread_count() * 2 * SIDE**3 / min(times)


def thread_count() -> int:
    """The threads of an operator: those of OMP_NUM_THREADS, or one for each core."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else core_count()


def _total(cell: Cell, training: float, evaluation: float) -> float:
    """The seconds of a cell, from the seconds per training image and per evaluation of one image."""
    if cell.role != "cell":
        trained = 0.0
    elif cell.train_seconds is not None:
        trained = cell.train_seconds
    else:
        trained = math.ceil((cell.train_images or 0) / cell.train.batch) * cell.train.batch * training
    samples = 0 if cell.tunes else cell.sample.count
    return trained + (samples * _evaluations(cell) + _passes_during(cell)) * evaluation


def _passes_during(cell: Cell) -> int:
    """The forward passes of the losses and of the samples during training; 0 if their number is not known."""
    during, images = cell.during, cell.train_images
    if during is None or images is None:
        return 0
    points = math.ceil(images / during.every)
    samples = during.samples * _evaluations(cell) if during.metrics else 0
    return points * (2 * LOSS_TIMES * during.images + samples)


def _evaluations(cell: Cell) -> int:
    """The forward passes for sampling one image. With guidance, an evaluation takes two."""
    once = cell.sample.resolved_evaluations or ADAPTIVE_EVALUATIONS
    return once * (1 if cell.sample.guidance is None else 2)
