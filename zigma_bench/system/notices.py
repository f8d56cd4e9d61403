"""Notices: lines for the person who watches a run.

Each process sends its notices to one sink: standard error, or, in a worker, the parent process, which prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

Sink = Callable[[str], None]


def _print(text: str) -> None:
    print(f"zigma-bench: {text}", file=sys.stderr, flush=True)


_sink: Sink = _print


def send_notices_to(sink: Sink) -> None:
    """Send every later notice of this process to `sink`."""
    global _sink
    _sink = sink


def report_notice(text: str) -> None:
    """Report an event that doesn't stop the work, such as the rebuild of an altered file."""
    _sink(text)
