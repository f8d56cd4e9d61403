"""Open an executor from the options of a command."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zigma_bench.errors import UnknownName, UsageError
from zigma_bench.plan import STAGES, Stage
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.run.executors.executor import Executor
from zigma_bench.suite import parse_value


def open_executor(name: str, settings: Sequence[str] = ()) -> Executor:
    """The executor of this name with options KEY=VALUE. UsageError for an unknown name, option or value."""
    spec = catalogue().get("executor", name, where="--executor")
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        where = f"--executor-set {setting}"
        if not equals:
            raise UsageError("not a KEY=VALUE setting", where=where, expected="KEY=VALUE, such as warm=false")
        values[key] = parse_value(value, where)
    options = spec.make_options(spec.resolve(values, where="--executor-set"))
    executor: Executor = spec.load()(options)
    return executor


def parse_timeouts(texts: Sequence[str]) -> dict[Stage, float]:
    """The timeouts in seconds by stage, from texts STAGE=SECONDS. UsageError for another text."""
    found = dict[Stage, float]()
    stages = {str(stage): stage for stage in STAGES}
    for text in texts:
        name, equals, value = text.partition("=")
        where = f"--timeout {text}"
        if not equals:
            raise UsageError("not a timeout", where=where, expected="STAGE=SECONDS, such as train=3600")
        if name not in stages:
            raise UnknownName("stage", name, STAGES, where=where)
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise UsageError("not a number of seconds", where=where, expected="a number above 0", got=value)
        found[stages[name]] = seconds
    return found
