"""A few of the crashes of `crashes.py`: after any kill, the results are those of an undisturbed run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
CRASHES = Path(__file__).with_name("crashes.py")


@pytest.mark.parametrize("words", [("kills", "--count", "5", "--longest", "12"), ("operations", "--every", "60")])
def test_a_crash_changes_no_figure(words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, CRASHES, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "undisturbed figures" in done.stdout
