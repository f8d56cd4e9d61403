"""Find or begin the run that a command belongs to. Its table file is written before the first cell runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.plan import Cell, Plan
from zigma_bench.plan.selection import RowChoice
from zigma_bench.records.runs import ChosenRun, RunOptions, choose_run, find_runs
from zigma_bench.records.store import only_writer, run_folder
from zigma_bench.records.table_file import (
    TABLE,
    BaselineRow,
    SelectedValue,
    TableCell,
    TableFile,
    read_table_file,
    time_now,
    write_table_file,
)
from zigma_bench.run.due import cell_folder
from zigma_bench.suite import declared_json
from zigma_bench.system.device import Device
from zigma_bench.system.notices import report_notice


@dataclass(frozen=True)
class OpenRun:
    """A run with a written table file: its folder, its table, and whether this command created it."""

    folder: Path
    table: TableFile
    is_new: bool


def options_of(plan: Plan) -> RunOptions:
    """The options of a plan, by which runs are compared: everything but the declared tests, which change no figure."""
    content = plan.suite.model_dump(mode="json", exclude_defaults=True, exclude={"statistics"})
    return RunOptions(content, plan.settings, plan.smoke)


def find_run(plan: Plan, results: Path, name: str | None = None) -> ChosenRun:
    """The run that a plan belongs to, without writing anything.

    UsageError for a name that is not allowed, or that belongs to a run with other options.
    """
    runs, _ = find_runs(results / plan.suite.name)
    return choose_run(runs, options_of(plan), name)


def open_run(plan: Plan, results: Path, device: Device, name: str | None = None) -> OpenRun:
    """The run that a plan belongs to, with a table file that has the plan's cells.

    The lock of the suite's folder prevents two processes from using one name for two runs. Without anything to write,
    no lock is needed.
    """
    suite = results / plan.suite.name
    chosen = find_run(plan, results, name)
    if chosen.existing is not None:
        table = make_table(plan, chosen.existing.folder, device, chosen)
        if table == chosen.existing.table:
            return OpenRun(chosen.existing.folder, table, is_new=False)
    with only_writer(suite, "the runs of this suite", wait=True):
        runs, broken = find_runs(suite)
        chosen = choose_run(runs, options_of(plan), name)
        folder = run_folder(results, plan.suite.name, chosen.name)
        if folder in broken:
            report_notice(f"{folder / TABLE}: the file is broken and is replaced")
        table = make_table(plan, folder, device, chosen)
        write_table_file(folder, table)
        return OpenRun(folder, table, is_new=chosen.existing is None)


def mark_updated(run: OpenRun) -> None:
    """Make a run the latest of its suite, because one of its stages will run.

    Another process may have added cells to its table since (a merge), so the file is read again.
    """
    with only_writer(run.folder.parent, "the runs of this suite", wait=True):
        table = read_table_file(run.folder) or run.table
        write_table_file(run.folder, table.model_copy(update={"updated": time_now()}))


def make_table(plan: Plan, folder: Path, device: Device, chosen: ChosenRun) -> TableFile:
    """The table file of a run: the run and the cells of its plan."""
    suite, now = plan.suite, time_now()
    old = None if chosen.existing is None else chosen.existing.table
    return TableFile(
        format=1,
        suite=suite.name,
        run=chosen.name,
        created=now if old is None else old.created,
        updated=now if old is None else old.updated,
        options=list(chosen.options),
        suite_sha256=plan.suite_sha256,
        content=dict(options_of(plan).content),
        question=plan.question,
        smoke=plan.smoke,
        budget={} if suite.budget is None else suite.budget.model_dump(exclude_none=True),
        reference=suite.reference.label,
        sample_count=suite.sample.count,
        residual=_residuals(plan.all_cells),
        statistics=declared_json(suite),
        baseline=BaselineRow(backbone=plan.baseline.backbone_label, scan=plan.baseline.scan_label),
        cells=[_table_cell(cell, folder, device) for cell in plan.all_cells],
        selected=[_selected_value(choice) for choice in plan.choices],
        waiting={selection.row: len(selection.waiting) for selection in plan.selections},
    )


def _selected_value(choice: RowChoice) -> SelectedValue:
    words = [candidate.words for candidate in choice.selection.candidates]
    return SelectedValue(
        row=choice.selection.row,
        losses=dict(zip(words, choice.losses, strict=True)),
        chosen=words[choice.best],
        at_edge=choice.at_edge,
    )


def _residuals(cells: Iterable[Cell]) -> list[str]:
    """The kinds of residual of the networks, for the footer of the table."""
    found = (cell.backbone.options.get("residual") for cell in cells if cell.backbone is not None)
    return sorted({str(residual) for residual in found if residual is not None})


def _table_cell(cell: Cell, folder: Path, device: Device) -> TableCell:
    facts = {
        "folder": cell_folder(folder, cell).name,
        "stages": {stage: cell.identity(stage, device_model=device.model_name) for stage in cell.stages},
        "role": cell.role,
        "seed": cell.seed,
        "backbone": cell.backbone_label,
        "scan": cell.scan_label,
        "smoke": cell.smoke,
        "data": cell.data_label,
        "parameters": cell.parameters,
        "forward_flops": sum(cell.forward_flops.values()),
        "flops_by": cell.flops_by,
        "scanned_ratio": cell.scanned_ratio,
        "tokens": cell.tokens,
        "size_match": None if cell.size_match is None else cell.size_match.model_dump(mode="json"),
        "setting": cell.setting,
        "varied": dict(cell.varied),
        "selected": cell.selected,
        "tunes": cell.tunes,
    }
    return TableCell.model_validate(facts)
