"""A store of every kind."""

import pytest

from omnistorage import Store

from .places import PLACES, params


@pytest.fixture(params=params(*PLACES))
def store(request):
    with Store(PLACES[request.param](), "root/of it") as store:
        yield store
