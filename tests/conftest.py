"""Settings of every process that runs tests, and where the fixtures that they share come from."""
# ruff: noqa: E402

import gc

# What tests import is a million objects that all stay: no search for garbage walks through them, now or in a test.
gc.disable()

import os

import pytest
from hypothesis import HealthCheck, settings

# Tiny tensors gain nothing from more threads, and where a machine shows more cores than it gives, waiting for them
# takes nearly all the time. torch reads the variable when it is imported, and programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples at every run, and a busy machine is no failure.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """The process that only hands tests out to others needs none of what they import."""
    if not hasattr(config, "workerinput"):
        from .forked import open_nursery

        open_nursery()
    if config.getoption("dist", "no") == "no":
        from . import fixtures

        config.pluginmanager.register(fixtures)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """All is imported by now."""
    gc.freeze()
    gc.enable()
