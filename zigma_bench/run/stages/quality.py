"""The stage `quality`: measure a cell's samples and network with every metric of the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zigma_bench.data.cell_images import CellImages, describe_parts, network_inputs, reference_images
from zigma_bench.errors import Interrupted
from zigma_bench.metrics.apply import measure_metric
from zigma_bench.metrics.features import digest_once
from zigma_bench.metrics.subject import Subject
from zigma_bench.records.store import SAMPLES
from zigma_bench.run.due import reads_network
from zigma_bench.run.stages.context import StageContext, StageResult
from zigma_bench.run.stages.denoiser import load_denoiser, velocity_of
from zigma_bench.sampling.cell_images import load_samples


def quality_stage(context: StageContext, folder: Path) -> StageResult:
    """Measure every metric. A metric that can't be measured is refused with a reason."""
    cell, images = context.cell, context.images("quality")
    network = velocity_of(load_denoiser(context), cell, images.texts) if reads_network(cell) else None
    subject = Subject(
        samples=load_samples(context.stage_folder("sample"), sha256=context.inputs("quality")[f"sample/{SAMPLES}"]),
        reference=reference_images(cell, images, context.cache),
        reference_facts={"data": cell.data_text, "split": cell.reference.label},
        validation=network_inputs(cell, images, context.cache).loss,
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
    return StageResult(found, _describe_parts(images))


def _describe_parts(images: CellImages) -> dict[str, Any]:
    """The counts and hashes of the parts, including the reference; empty without a tuning part."""
    parts = describe_parts(images)
    if not parts:
        return {}
    reference = {"images": len(images.reference), "pixels_sha256": digest_once(images.reference)}
    return {"parts": parts | {"reference": reference}}
