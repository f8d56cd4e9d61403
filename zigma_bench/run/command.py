"""What the records of this command have in common: where they come from."""

from __future__ import annotations

import functools
from typing import Any

from zigma_bench.plugins.origins import plugin_origins
from zigma_bench.records.provenance import run_provenance
from zigma_bench.system.device import Device


@functools.cache
def command_provenance(device: Device, executor: str = "local") -> dict[str, Any]:
    """The provenance of all records of this command on a device, computed once."""
    return run_provenance(device, executor=executor, plugins=plugin_origins())
