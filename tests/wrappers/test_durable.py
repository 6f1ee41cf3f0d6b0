"""Wrappers say whether a write survives a power cut: as what they write to does."""

import pytest

from omnistorage import Cache, CapabilityNotSupported, Encrypt, LocalBackend, MemoryBackend, ops
from omnistorage.core import WriteOptions
from omnistorage.testing import BasicBackend
from omnistorage.wrappers import Observe, Prefix, ReadOnly, Retry

WRAPPERS = {
    "Cache": lambda inner: Cache(inner, MemoryBackend()),
    "Encrypt": lambda inner: Encrypt(inner, bytes(32)),
    "Observe": lambda inner: Observe(inner, [].append),
    "Prefix": lambda inner: Prefix(inner, "p"),
    "Prefix in Encrypt": lambda inner: Encrypt(Prefix(inner, "p"), bytes(32)),
}
DURABLE = WriteOptions(durable=True)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_is_durable_exactly_where_what_it_writes_to_is(name, tmp_path):
    store = WRAPPERS[name](LocalBackend(tmp_path))
    assert store.durable is True
    ops.write_bytes(store, "x", b"kept", DURABLE)
    assert ops.read_bytes(store, "x") == b"kept"
    for inner in (MemoryBackend(), BasicBackend()):
        store = WRAPPERS[name](inner)
        assert store.durable is False
        with pytest.raises(CapabilityNotSupported):
            ops.write_bytes(store, "x", b"lost", DURABLE)


def test_a_basic_backend_that_says_so_is_durable_through_every_wrapper():
    class Kept(BasicBackend):
        durable = True

    assert all(wrap(Kept()).durable for wrap in (*WRAPPERS.values(), Retry))
    assert Retry(BasicBackend()).durable is False


def test_a_cache_is_not_durable_for_what_it_keeps_things_in(tmp_path):
    assert Cache(MemoryBackend(), LocalBackend(tmp_path)).durable is False


def test_what_cannot_write_is_not_durable(tmp_path):
    assert ReadOnly(LocalBackend(tmp_path)).durable is False
