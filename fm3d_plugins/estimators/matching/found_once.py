"""Features and matches of the same photos are sought once in an estimation, by whoever wants them.

An estimator, the refinement of its cameras, and `sfm` where these are rejected follow one another
and know nothing of each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_found: ContextVar[dict[Any, Any]] = ContextVar("found")


@contextmanager
def finding_once() -> Iterator[None]:
    """While the body runs, what is noted in `found_before` is kept."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def found_before() -> dict[Any, Any]:
    """What was found so far, to be looked up in and added to; outside of `finding_once` nothing."""
    return _found.get({})
