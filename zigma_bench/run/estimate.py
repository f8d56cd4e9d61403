"""How long a cell will take and what memory it will need, and what that guess stands on."""

from __future__ import annotations

import math
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
from zigma_bench.run.fitted_costs import Costs, fit_costs
from zigma_bench.run.timed import Call, Kind, Timed, features_of, kind_of, timed_calls
from zigma_bench.system.device import Device, precision_on

# A network of small matrices and scans reaches about this share of the speed of one large matrix product.
SHARE_OF_MATMUL = 0.15
NOTHING = "nothing is computed"
ADAPTIVE_EVALUATIONS = 100  # of dopri5, about


@dataclass(frozen=True)
class Estimate:
    """Seconds of training and sampling of a cell and bytes at its peak, None where nothing tells, and the source."""

    seconds: float | None
    source: str
    bytes: float | None = None


class Estimator:
    """Estimates for one device from what lies in a results folder, which is read once.

    From the cell's own efficiency record on this card; else from costs fitted to the records of cells like it there;
    else, on a CPU, from FLOPs.
    """

    def __init__(self, results: Path, device: Device) -> None:
        self.results, self.device = results, device
        self._fits: dict[tuple[Kind, str], Costs | str] = {}

    def __call__(self, cell: Cell) -> Estimate:
        if cell.timed_alone:
            return Estimate(None, "nothing tells how long timing takes before it was done")
        if cell.backbone is None:  # held-out images, whole or reconstructed
            return Estimate(0.0, NOTHING)
        if (speeds := self._measured(cell)) is not None:
            return speeds
        fitted = self._fitted(cell)
        if fitted.seconds is not None or self.device.type != "cpu":
            return fitted
        flops = sum(cell.forward_flops.values())
        seconds = flops / (self._matmul_rate * SHARE_OF_MATMUL)
        return Estimate(_total(cell, 3 * seconds, seconds), "FLOPs, to a factor of 3")

    def _measured(self, cell: Cell) -> Estimate | None:
        if cell.role != "cell" or cell.efficiency is None:
            return None
        record = self._efficiency_record(cell)
        values = {m.name: m.value for m in record.measurements} if record else {}
        train, sample = values.get("train-images-per-second"), values.get("sample-images-per-second")
        if not train or not sample:
            return None
        peaks = [value for name in ("train-step", "sample") if (value := values.get(f"{name}-peak-memory")) is not None]
        passes = _evaluations(cell)
        return Estimate(_total(cell, 1 / train, 1 / sample / passes), "its efficiency record", max(peaks, default=None))

    def _efficiency_record(self, cell: Cell) -> Record | None:
        """The cell's efficiency record on this card, of whichever run of its suite has one."""
        identity = cell.identity("efficiency", card=self.device.card)
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
        """From the costs of a step and of an evaluation, with the errors of both."""
        written, trains = cell.model_dump(mode="json"), cell.role == "cell"
        calls: dict[Call, int] = {"forward": min(cell.sample.batch, cell.sample.count)}
        if trains:
            calls["train-step"] = cell.train.batch
        each, peaks, said = {"train-step": 0.0}, [], []
        for call, batch in calls.items():
            costs = self._costs(kind_of(written, call, self.device.card, self._precision(cell)), cell.backend)
            if isinstance(costs, str):
                return Estimate(None, f"{call}: {costs}")
            features = features_of(written, batch)
            each[call] = costs.seconds.predict(features) / batch
            peaks.append(costs.peak.predict(features))
            said.append(f"{call} {costs.said}")
        return Estimate(_total(cell, each["train-step"], each["forward"]), "; ".join(said), max(peaks))

    def _costs(self, kind: Kind, backend: str) -> Costs | str:
        key = (kind, backend)
        if key not in self._fits:
            self._fits[key] = fit_costs(self._timed, kind, backend)
        return self._fits[key]

    def _precision(self, cell: Cell) -> str:
        return precision_on(self.device.type, cell.train.precision)

    @cached_property
    def _timed(self) -> list[Timed]:
        return timed_calls(self.results, self.device.card)

    @cached_property
    def _matmul_rate(self) -> float:
        """FLOP/s of a float32 matrix product of 1,024 on this CPU."""
        import numpy as np

        a: Any = np.ones((1024, 1024), dtype=np.float32)
        a @ a
        start = time.perf_counter()
        for _ in range(3):
            a @ a
        return 3 * 2 * 1024**3 / (time.perf_counter() - start)


def _total(cell: Cell, training: float, evaluation: float) -> float:
    """Seconds of a cell from those of one image in training and in one evaluation."""
    if cell.role != "cell":
        trained = 0.0
    elif cell.train_seconds is not None:
        trained = cell.train_seconds
    else:
        trained = math.ceil((cell.train_images or 0) / cell.train.batch) * cell.train.batch * training
    return trained + cell.sample.count * _evaluations(cell) * evaluation


def _evaluations(cell: Cell) -> int:
    """Passes of one image through the network; guidance takes two an evaluation."""
    once = cell.sample.resolved_evaluations or ADAPTIVE_EVALUATIONS
    return once * (1 if cell.sample.guidance is None else 2)
