"""Folders in folders: no symbolic link leads out of any of those that a child was made of."""

import os
import pickle

import pytest

from omnistorage import InvalidPath, LocalBackend, MultiBackend, NotFound, Prefix, Store, TieredBackend
from omnistorage.multi import Tier
from omnistorage.store import CompositeStore, ProxyStore


@pytest.fixture
def root(tmp_path):
    """``a/out`` leads to the neighbour ``b``, ``a/in`` stays in ``a``."""
    for place in (tmp_path / "root", tmp_path / "other"):
        (place / "a" / "inner").mkdir(parents=True)
        (place / "b").mkdir()
        (place / "a" / "inner" / "x").write_bytes(b"inside")
        (place / "b" / "x").write_bytes(b"SECRET")
        os.symlink("../b", place / "a" / "out")
        os.symlink("inner", place / "a" / "in")
    return tmp_path / "root"


def composite(root):
    return CompositeStore([Tier("hot", LocalBackend(root)), Tier("cold", LocalBackend(root.parent / "other"))])


WAYS = {
    "child": lambda root, folder: Store(LocalBackend(root)).child("a").child(folder),
    "child of a rooted store": lambda root, folder: Store(LocalBackend(root), "a").child(folder),
    "store of a store": lambda root, folder: Store(Store(LocalBackend(root), "a"), folder),
    "prefix": lambda root, folder: Store(Prefix(Prefix(LocalBackend(root), "a"), folder)),
    "prefix of a store": lambda root, folder: Store(Prefix(Store(LocalBackend(root), "a").as_backend(), folder)),
    "proxy": lambda root, folder: ProxyStore(Store(LocalBackend(root), "a")).child(folder),
    "mirror": lambda root, folder: Store(MultiBackend([root, root.parent / "other"]), "a").child(folder),
    "composite": lambda root, folder: composite(root).child("a").child(folder),
    "tier": lambda root, folder: composite(root).child("a").child(folder).tier("cold"),
}


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_link_to_a_neighbour_is_no_way_into_it(root, way, pickled):
    store = WAYS[way](root, "out")
    store = pickle.loads(pickle.dumps(store)) if pickled else store
    for attempt in (
        lambda: store.read_bytes("x"),
        lambda: store.write("new", b"planted"),
        lambda: store.write("x", b"planted", overwrite=True),
        lambda: store.delete("x"),
        lambda: list(store.list_files()),
    ):
        with pytest.raises((InvalidPath, NotFound)):
            attempt()
    assert os.listdir(root / "b") == ["x"]
    assert (root / "b" / "x").read_bytes() == b"SECRET"


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_link_that_stays_inside_is_followed(root, way, pickled):
    store = WAYS[way](root, "in")
    store = pickle.loads(pickle.dumps(store)) if pickled else store
    assert store.read_bytes("x") == b"inside"
    store.write("new/y", b"made")
    assert store.read_bytes("new/y") == b"made"


@pytest.mark.parametrize("kind", [lambda root: MultiBackend([root]), lambda root: TieredBackend([Tier("t", root)])])
def test_no_link_of_a_tier_leads_out_of_a_prefix(root, kind):
    for path in ("out/x", "in/x"):
        view = Prefix(kind(LocalBackend(root)), "a")
        if path == "in/x":
            assert view.open_reader(path).read() == b"inside"
            continue
        with pytest.raises(InvalidPath):
            view.open_reader(path)
        with pytest.raises(InvalidPath):
            view.open_writer(path).close()


def test_nothing_is_migrated_from_behind_a_link(root):
    store = composite(root).child("a").child("out")
    with pytest.raises((InvalidPath, NotFound)):
        store.migrate("x", "hot", "cold", overwrite=True)
    assert (root / "b" / "x").read_bytes() == b"SECRET"


def test_stores_of_one_folder_are_equal_however_they_came_to_it(root):
    backend = LocalBackend(root)
    assert Store(backend, "a").child("in") == Store(backend, "a/in")
    assert Store(backend, "a").child("in").root_path == "a/in"
