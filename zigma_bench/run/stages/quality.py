"""The stage `quality`: measure a cell's samples and network with every metric of the suite."""

from __future__ import annotations

from pathlib import Path

from zigma_bench.data.cell_images import network_inputs, reference_images
from zigma_bench.data.images import Images
from zigma_bench.diffusion.convert import linear_velocity_of
from zigma_bench.diffusion.guidance import with_text_features
from zigma_bench.errors import Interrupted
from zigma_bench.metrics.apply import measure_metric
from zigma_bench.metrics.subject import Subject
from zigma_bench.records.store import SAMPLES
from zigma_bench.run.due import reads_network
from zigma_bench.run.stages.context import StageContext, StageResult
from zigma_bench.run.stages.denoiser import load_denoiser
from zigma_bench.sampling.cell_images import load_samples


def _samples(context: StageContext) -> Images | None:
    """The samples of the cell; None for a cell that only tunes a row."""
    if "sample" not in context.cell.stages:
        return None
    return load_samples(context.stage_folder("sample"), sha256=context.inputs("quality")[f"sample/{SAMPLES}"])


def quality_stage(context: StageContext, folder: Path) -> StageResult:
    """Measure every metric. A metric that can't be measured is refused with a reason."""
    cell, images = context.cell, context.images("quality")
    network = None
    if reads_network(cell):
        denoiser = load_denoiser(context)
        denoiser = denoiser if images.texts is None else with_text_features(denoiser, images.texts)
        network = linear_velocity_of(denoiser, cell.objective.path, cell.objective.prediction)
    subject = Subject(
        samples=_samples(context),
        reference=reference_images(cell, images, context.cache),
        reference_facts={"data": cell.data_text, "split": cell.reference.label},
        validation=network_inputs(cell, images, context.cache).validation,
        network=network,
        labelled=cell.condition is not None,
        device=context.device.name,
        cache=context.cache,
    )
    on_progress = context.progress_of("quality", len(cell.quality))
    found = []
    for index, metric in enumerate(cell.quality):
        if context.stopped():
            raise Interrupted("stopped between two metrics; the same command measures them again")
        on_progress(index, metric.name)
        found.append(measure_metric(metric.name, metric.options, subject))
    return StageResult(found, {})
