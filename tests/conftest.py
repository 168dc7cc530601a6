"""Settings of every process that runs tests, and where the fixtures that they share come from."""
# ruff: noqa: E402

import gc

# What tests import is a million objects that all stay: no search for garbage walks through them, now or in a test.
gc.disable()

import inspect
import os
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import HealthCheck, settings

# Tiny tensors gain nothing from more threads, and where a machine shows more cores than it gives, waiting for them
# takes nearly all the time. torch reads the variable when it is imported, and programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples at every run, and a busy machine is no failure.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

_with_shapes = jaxtyping.jaxtyped
_types_alone = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def _checked(code: Any, *, typechecker: Any) -> Any:
    """What jaxtyping's decorator does, and less for signatures that have no shapes: there beartype says as much.

    Its bookkeeping, at every call and for everything that is imported, took a seventh of the suite's time. It reads
    hints in quotes, which may name what is not there when the package runs.
    """
    if inspect.isclass(code):
        if is_dataclass(code) and "__init__" in vars(code):
            code.__init__ = _checked(code.__init__, typechecker=typechecker)
        return code
    if any(isinstance(hint, str) or "jaxtyping." in repr(hint) for hint in code.__annotations__.values()):
        return _with_shapes(code, typechecker=typechecker)
    return _types_alone(code)


# By this name the import hook of `--jaxtyping-packages` finds what it puts on functions and classes of the package.
jaxtyping.jaxtyped = lambda *, typechecker: partial(_checked, typechecker=typechecker)  # type: ignore[assignment]


def pytest_configure(config: pytest.Config) -> None:
    """The process that only hands tests out to others needs none of what they import."""
    if not hasattr(config, "workerinput"):
        from .forked import open_nursery

        open_nursery()
    if config.getoption("dist", "no") == "no":
        from . import fixtures

        config.pluginmanager.register(fixtures)


def pytest_itemcollected(item: pytest.Item) -> None:
    """No test happens to call what it calls most where memory for calls ends."""
    from swd_video.environment import with_room_for_calls

    item.runtest = partial(with_room_for_calls, item.runtest)  # type: ignore[method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """All is imported by now."""
    gc.freeze()
    gc.enable()
