"""``ops.transfer`` to every kind of store: what it reads back is what it wrote, whatever tells versions apart there."""

import pytest

from omnistorage import MemoryBackend, ops
from omnistorage.core import WriteOptions

from .test_server_matrix import BACKENDS


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "size", [pytest.param(0, marks=pytest.mark.ci_only), pytest.param(10, marks=pytest.mark.ci_only), 300_000]
)
def test_a_copy_is_verified_and_not_taken_for_somebody_elses(name, size):
    source, target = MemoryBackend(), BACKENDS[name]()
    for number in range(2):  # a new object, and one that is replaced
        data = bytes([number]) * size
        ops.write_bytes(source, "from", data, WriteOptions(user_metadata={"k": "v"}))
        assert ops.transfer(source, "from", target, "d/to").size == size
        assert ops.read_bytes(target, "d/to") == data
    target.close()
