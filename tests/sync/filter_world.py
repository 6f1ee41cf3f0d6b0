"""What the tests of filters share."""

from datetime import UTC, datetime

import pytest

from omnistorage import ConfigError
from omnistorage.sync.filters import Filter

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)


def passing(filter, paths):
    return [path for path in paths if filter.includes_path(path)]


def refused(*args, **options):
    with pytest.raises(ConfigError) as caught:
        Filter.parse(*args, **options)
    return str(caught.value)
