"""Lines for the person who watches a run, from code that does not know where it runs.

A process sends its notices to one place: standard error, or, in the process of a cell, the parent that shows them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

Sink = Callable[[str], None]


def _print(text: str) -> None:
    print(f"zigma-bench: {text}", file=sys.stderr, flush=True)


_sink: Sink = _print


def send_notices_to(sink: Sink) -> None:
    """Have every later notice of this process go to `sink`."""
    global _sink
    _sink = sink


def notice(text: str) -> None:
    """Report something that does not stop the work, such as an altered file that is made again."""
    _sink(text)
