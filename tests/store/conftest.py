"""A store of every kind."""

import pytest

from omnistorage import Store

from .places import PLACES


@pytest.fixture(params=list(PLACES))
def store(request):
    with Store(PLACES[request.param](), "root/of it") as store:
        yield store
