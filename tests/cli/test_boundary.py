"""Faults of disks, files and terminals: one sentence and a documented exit code; and escaped control characters."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import pytest

from zigma_bench.errors import ComparisonRefused, NotReady, UsageError, nearest, system_fault
from zigma_bench.escaping import csv_cell, markdown, visible, write_plainly
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.records import store
from zigma_bench.suite import load_suite

PROGRAM = [sys.executable, "-m", "zigma_bench"]


def shell(words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", words], capture_output=True, text=True, env={**os.environ, "PY": sys.executable}
    )


@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO, errno.EMFILE],
)
def test_a_failing_disk_is_a_sentence_with_its_file(number):
    fault = system_fault(OSError(number, os.strerror(number), "results/a.json"))
    assert fault.exit_code == 3
    assert str(fault).startswith("results/a.json: ")
    assert "Errno" not in str(fault)


def test_other_failures_of_the_system_and_bugs():
    assert "memory" in reason_of(MemoryError())
    assert "nested too deeply" in reason_of(RecursionError())
    assert "no space" in reason_of(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert system_fault(KeyError("x")) is None
    assert reason_of(KeyError("x\n")) == "KeyError: 'x\\n'"


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        store.write_atomic(tmp_path / "a.json", "new")
    assert str(tmp_path / "a.json") in reason_of(caught.value)


def test_a_run_asks_for_space_before_it_begins(tmp_path, monkeypatch):
    store.check_writable(tmp_path, 2**21)

    def full(handle, start, count):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(store.os, "posix_fallocate", full)
    with pytest.raises(NotReady, match=r"quota.*3,145,728 bytes.*bytes free") as caught:
        store.check_writable(tmp_path, 3 * 2**20)
    assert str(caught.value).startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("redirect", "words"), [(">/dev/full", "no space left"), (">&-", "standard output is closed")])
@pytest.mark.parametrize("command", ["scans list", "scans list --json", "--version"])
def test_standard_output_that_is_lost(redirect, words, command):
    done = shell(f'"$PY" -m zigma_bench {command} {redirect}')
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_and_a_closed_standard_error():
    done = shell('"$PY" -m zigma_bench schema | true; echo ${PIPESTATUS[0]}')
    assert done.stdout == "1\n"
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr
    assert shell('"$PY" -m zigma_bench --version 2>&-').returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_some_characters(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    write_plainly(stream)
    stream.write("a ± b → c ↓ é 漢 \ud800")
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert "-> c v" in text
    assert text.endswith("? \\ud800")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = ["scans", "show", "zigzag", "--grid", "4x4"]
    done = subprocess.run([*PROGRAM, *words], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"15" in done.stdout


def test_text_acts_on_nothing():
    assert visible("a\x1b[2J\n\x85\u202e\x7f\ud800") == "a\\x1b[2J\\n\\x85\\u202e\\x7f\\ud800"
    assert visible("é 漢 ±") == "é 漢 ±"
    assert markdown("a|b*`<script>![](x)\n# c") == "a\\|b\\*\\`\\<script\\>!\\[\\](x)\\\\n# c"
    assert markdown("# a") == "\\# a"
    assert markdown("6.133 ± 1.2") == "6.133 ± 1.2"
    assert "://" not in markdown("https://example.org")
    assert [csv_cell(text) for text in ("=1", " +1", "\t1", "@x", "-1", 5, "a")] == [
        "'=1", "' +1", "'\\t1", "'@x", "'-1", 5, "a",
    ]  # fmt: skip
    assert "\n" not in str(UsageError("a\nb", where="c\x1b"))


def test_the_nearest_name_ignores_capitals_and_very_long_names():
    assert nearest("BUDGET", ["budget", "name"]) == "budget"
    assert nearest("x" * 10**6, ["budget"]) is None


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling"])
def test_what_is_no_file_is_no_record(tmp_path, kind):
    path = tmp_path / "record.json"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "dangling": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(ComparisonRefused, match=r"record\.json"):
        store.read_record(tmp_path)


def test_a_pipe_is_no_suite(tmp_path):
    os.mkfifo(tmp_path / "suite.yaml")
    with pytest.raises(UsageError, match="a pipe or a device"):
        load_suite(tmp_path / "suite.yaml")


HANGS_UP = """
import signal, sys, time
from zigma_bench.__main__ import _handle_signals, boundary
from zigma_bench.system.interrupts import noted_interrupts
with boundary():
    _handle_signals()
    with noted_interrupts():
        {hang_up}
"""


def test_a_hang_up_interrupts_like_the_user():
    code = HANGS_UP.format(hang_up="signal.raise_signal(signal.SIGHUP)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.splitlines() == ["zigma-bench: interrupted; the same command resumes where it stopped"]


def test_under_nohup_a_hang_up_changes_nothing():
    code = HANGS_UP.format(hang_up="signal.raise_signal(signal.SIGHUP)")
    done = subprocess.run(
        ["bash", "-c", 'trap \'\' HUP; exec "$0" -c "$1"', sys.executable, code], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_that_closes_leaves_the_code_of_an_interrupt():
    """Later writes to it fail, which must not change the exit code."""
    ours, theirs = os.openpty()
    say = "print({!r}, file=sys.stderr, flush=True)"
    lines = ["try:", f"    {say.format('ready')}", "    time.sleep(60)", "finally:", f"    {say.format('last words')}"]
    wait = ("\n" + " " * 8).join(lines)
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-c", HANGS_UP.format(hang_up=wait)],
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    assert b"ready" in os.read(ours, 100)
    os.close(ours)
    assert process.wait(30) == 75
