"""Stores made from stores, over a plain one and over tiers."""

import inspect
import sys

import pytest

from omnistorage import (
    CompositeStore,
    ConfigError,
    CorruptData,
    LocalBackend,
    MemoryBackend,
    NotFound,
    Store,
    Tier,
    ext,
)
from omnistorage.ext import cache, encrypt, observe
from omnistorage.testing import Faulty
from omnistorage.wrappers import Cache

KEY = bytes(range(32))
STORES = {
    "plain": lambda: Store(MemoryBackend(), "root"),
    "child": lambda: Store(MemoryBackend()).child("a").child("b"),
    "tiers": lambda: CompositeStore([Tier("hot", MemoryBackend()), Tier("cold", MemoryBackend())]),
}
WRAPS = {
    "observe": lambda store: observe(store, lambda event: None),
    "cache": lambda store: cache(store),
    "encrypt": lambda store: encrypt(store, KEY),
    "all": lambda store: observe(encrypt(cache(store), KEY), lambda event: None),
}


@pytest.fixture(params=sorted(STORES))
def store(request):
    with STORES[request.param]() as store:
        yield store


@pytest.mark.parametrize("wrap", sorted(WRAPS))
def test_a_wrapped_store_is_a_store(store, wrap):
    wrapped = WRAPS[wrap](store)
    wrapped.write("d/x", b"content")
    assert wrapped.read_bytes("d/x") == b"content"
    assert wrapped.read_bytes("d/x", offset=3) == b"tent"
    assert wrapped.child("d").read_bytes("x") == b"content"
    assert [(info.path, info.size) for info in wrapped.list_files(recursive=True)] == [("d/x", 7)]
    with wrapped.open("t.csv.gz", "wt") as file:
        file.write("a,b\n")
    with wrapped.open("t.csv.gz") as file:
        assert file.read(2) == b"\x1f\x8b"
    wrapped.copy("d/x", "d/y")
    wrapped.move("d/y", "z")
    wrapped.delete("d/x")
    assert [info.path for info in store.list_files(recursive=True)] == ["t.csv.gz", "z"]
    with pytest.raises(NotFound) as caught:
        wrapped.read_bytes("missing")
    assert caught.value.path == "missing"
    wrapped.close()
    assert store.is_file("z"), "closing it closes nothing that it was made from"


def test_observing_tells_start_and_end_of_calls_and_streams(store):
    told = []
    with observe(store, told.append).open("x", "wb") as file:
        file.write(b"12345")
    ends = [event for event in told if event.phase == "end"]
    assert [(event.op, event.path, event.bytes) for event in ends if event.op == "write"] == [("write", "x", 5)]
    assert all(event.seconds is not None for event in ends)


def test_rs_7_1_1_a_child_of_a_cached_store_never_gets_its_parents_bytes(store):
    store.write("f.txt", b"the parent's")
    store.write("a/f.txt", b"the child's")
    cached = cache(store, ttl=3600)
    for _ in range(2):
        assert cached.read_bytes("f.txt") == b"the parent's"
        assert cached.child("a").read_bytes("f.txt") == b"the child's"
    assert cached.unwrap(Cache).stats.hits == 2


def test_two_stores_share_a_cache_and_never_each_others_bytes(tmp_path):
    kept = LocalBackend(tmp_path / "cache")
    stores = [Store(LocalBackend(tmp_path / name)) for name in "ab"]
    for number, store in enumerate(stores):
        store.write("x", b"%d" % number)
    for _ in range(2):
        assert [cache(store, into=kept).read_bytes("x") for store in stores] == [b"0", b"1"]


def test_a_cached_store_asks_for_bytes_once(store):
    inner = Faulty(store.as_backend())
    Store(inner).write("x", b"1")
    cached = cache(Store(inner))
    inner.log.clear()
    for _ in range(3):
        assert cached.read_bytes("x") == b"1"
    assert inner.log.count("open_reader") == 1


def test_an_encrypted_store_shows_nothing_and_notices_damage(store):
    secret = encrypt(store, KEY)
    secret.write("x", b"a line that must not be seen" * 100)
    raw = store.read_bytes("x")
    assert b"line" not in raw
    store.write("x", raw[:-1], overwrite=True)
    with pytest.raises(CorruptData) as caught:
        secret.read_bytes("x")
    assert caught.value.path == "x"


def test_a_cache_is_kept_in_a_store(store):
    with pytest.raises(ConfigError, match="not in str"):
        cache(store, into="folder")


@pytest.mark.parametrize("wrap", [lambda s: observe(s, print), cache, lambda s: encrypt(s, KEY)])
def test_what_is_no_store_is_refused(wrap):
    with pytest.raises(ConfigError, match="MemoryBackend"):
        wrap(MemoryBackend())


def _state():
    """What the modules of the Store and its extensions hold that could change."""
    return {
        f"{name}.{key}": repr(value)
        for name, module in sorted(sys.modules.items())
        if name.startswith(("omnistorage.store", "omnistorage.ext", "omnistorage.multi"))
        for key, value in vars(module).items()
        if not key.startswith("__") and not callable(value) and not inspect.ismodule(value)
    }


def test_extensions_keep_no_state_of_their_own(store):
    before = _state()
    for wrap in WRAPS.values():
        wrap(store).write("x", b"1", overwrite=True)
        wrap(store).read_bytes("x")
        store.delete("x")
    store.write("x", b"1")
    assert list(ext.batch_read(store, ["x", "y"]))
    assert ext.batch_copy(store, [("x", "y")]).all_succeeded
    assert ext.batch_delete(store, ["x", "y"]).all_succeeded
    assert _state() == before
    assert len(before) > 10


def test_all_names_of_ext_are_there():
    assert all(callable(getattr(ext, name)) for name in ext.__all__)
