"""Executors: where the cells of a plan run. The built-in ones are registered by the same hook as a plugin's."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.plugins.registry import ExecutorFacts
from zigma_bench.run.executors.options import LocalOptions


@hookimpl
def register_executors(register: Callable[..., None]) -> None:
    register(
        "local",
        "zigma_bench.run.executors.local:LocalExecutor",
        options=LocalOptions,
        facts=ExecutorFacts(local=True),
    )
