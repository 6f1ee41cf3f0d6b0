"""What the files of tests of the query store share."""

import pytest

from .sql_places import IN_CI
from .sql_query_places import QueryPlace


@pytest.fixture(params=["sqlite", IN_CI("postgres"), "mariadb"])
def place(request, tmp_path):
    made = QueryPlace(request.param, tmp_path)
    yield made
    made.dispose()


@pytest.fixture
def lite(tmp_path):
    return QueryPlace("sqlite", tmp_path)
