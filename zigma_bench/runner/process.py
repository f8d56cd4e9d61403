"""A fresh process of this program, which takes a job on standard input and answers with a line of JSON an event."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any


def start(module: str, log: Any) -> subprocess.Popen[str]:
    """The process of a module; what it prints beside its events goes to `log`."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as nvidia-smi counts
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        start_new_session=True,
    )
