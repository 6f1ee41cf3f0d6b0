"""Fixtures of the tests of the sync engine."""

import pytest

from .safety_world import STORES
from .stores import (
    fill,
)
from .two_sides import Two


@pytest.fixture(params=STORES.values(), ids=STORES)
def store(request):
    return request.param


@pytest.fixture
def two():
    """A pair in step: ``x``, ``y`` and ``d/z``, and ``always``."""
    made = Two()
    fill(made.a, "always", "x", "y", "d/z")
    made.go()
    return made


@pytest.fixture(params=[(0, 1), (1, 0)], ids=["from path1", "from path2"])
def way(request, two):
    """The pair, the side that is edited, the other one."""
    stores = two.a, two.b
    return two, stores[request.param[0]], stores[request.param[1]]
