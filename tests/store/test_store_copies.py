"""Every promise of the Store, on every backend: moves and copies, what it is, and its capabilities."""

import copy
import dataclasses
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from omnistorage import (
    AlreadyExists,
    BackendClosed,
    Capability,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    LocalBackend,
    MemoryBackend,
    NotFound,
    PermissionDenied,
    Prefix,
    Store,
)
from omnistorage.core import Features
from omnistorage.store.capability import INTERNAL, SOURCES

from ..backends import azure_places, gcs_places, test_s3
from .filled import can, fill, names
from .places import PLACES, SHOWN, params

# -- moving and copying ------------------------------------------------------------------------------------------------


def test_copy_and_move(store):
    fill(store, "a")
    assert store.copy("a", "d/b", overwrite=True).path == "d/b"
    assert store.move("a", "c", overwrite=True).path == "c"
    assert names(store.list_files(recursive=True)) == ["c", "d/b"]
    assert store.read_bytes("c") == store.read_bytes("d/b") == b"a"
    store.copy("c", "c")
    store.move("c", "c")
    assert store.read_bytes("c") == b"a"


def test_copy_and_move_folders(store):
    fill(store, "d/a", "d/e/b", "dd/c")
    found = store.copy_folder("d", "copy/of", overwrite=True)
    assert (found.path, found.file_count, found.total_size) == ("copy/of", 2, 8)
    store.move_folder("d", "moved", overwrite=True)
    assert names(store.list_files(recursive=True)) == ["copy/of/a", "copy/of/e/b", "dd/c", "moved/a", "moved/e/b"]
    assert list(store.list_files("d", recursive=True)) == []
    assert store.read_bytes("moved/e/b") == b"d/e/b"
    for op in (store.copy_folder, store.move_folder):
        with pytest.raises(NotFound):
            op("nope", "x", overwrite=True)
        with pytest.raises(InvalidPath, match="lies in"):
            op("moved", "moved/in", overwrite=True)
        assert op("moved", "moved").file_count == 2


def test_folders_that_overlap_lose_nothing(store):
    """A target in the folder that is read would be read itself, or lie where a file was before it was moved."""
    fill(store, "a/b/y", "a/b/b/y")
    for op in (store.move_folder, store.copy_folder):
        with pytest.raises(InvalidPath, match="lies in"):
            op("a/b", "a", overwrite=True)
        with pytest.raises(InvalidPath, match="lies in"):
            op("a", "a/b/c", overwrite=True)
        assert store.read_bytes("a/b/y") == b"a/b/y"
        assert store.read_bytes("a/b/b/y") == b"a/b/b/y"
    store.move_folder("a/b", "", overwrite=True)
    assert names(store.list_files(recursive=True)) == ["b/y", "y"]


def test_real_folders_move_even_if_they_are_empty(tmp_path):
    with Store(LocalBackend(tmp_path)) as store:
        (tmp_path / "em/sub").mkdir(parents=True)
        store.copy_folder("em", "copy")
        assert (tmp_path / "copy/sub").is_dir()
        store.move_folder("em", "moved")
        assert (tmp_path / "moved/sub").is_dir()
        assert not (tmp_path / "em").exists()


def test_links_and_pipes_are_refused_before_anything_moves(tmp_path):
    with Store(LocalBackend(tmp_path)) as store:
        fill(store, "d/a", "d/z")
        (tmp_path / "d/link").symlink_to("a")
        os.mkfifo(tmp_path / "d/pipe")
        for op in (store.move_folder, store.copy_folder):
            with pytest.raises(InvalidPath, match="remove it first") as caught:
                op("d", "e")
            assert caught.value.path in ("d/link", "d/pipe")
        assert store.read_bytes("d/a") == b"d/a"
        assert not store.exists("e")
        assert store.get_folder_info("d").file_count == 2


def test_a_folder_that_is_filled_meanwhile_is_not_deleted():
    class Marked(MemoryBackend):
        """An object store that keeps an object ``d/`` for an empty folder; somebody writes after the second look."""

        looks = 2

        def list(self, prefix="", *options):
            return (info for info in super().list(prefix, *options) if not info.path.endswith("/"))

        def list_dir(self, path=""):
            found = [info for info in super().list_dir(path) if info.path != f"{path}/"]
            self.looks -= 1
            if not self.looks:
                self.put_raw("d/late", b"1")
            return iter(found)

    backend = Marked(dirs=False)
    backend.put_raw("d/", b"")
    with Store(backend) as store:
        store.delete_folder("d")
        assert store.read_bytes("d/late") == b"1"
        assert not backend.exists("d/")


def test_local_places_that_are_no_files_are_refused_and_errors_name_them(tmp_path):
    with Store(MemoryBackend()) as store:
        store.write("x", b"new")
        os.mkfifo(tmp_path / "pipe")
        for call in (lambda p: store.download("x", p, overwrite=True), lambda p: store.upload(p, "y")):
            for place in (tmp_path / "pipe", tmp_path):
                with pytest.raises(InvalidPath, match="not a file") as caught:
                    call(place)
                assert caught.value.path == str(place)
            for wrong in (b"x", 5, None, ""):
                with pytest.raises(InvalidPath, match="local file"):
                    call(wrong)
        with pytest.raises(NotFound) as missing:
            store.upload(tmp_path / "none/x.txt", "y")
        assert missing.value.path == str(tmp_path / "none/x.txt")
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/link").symlink_to("../real")
        store.upload(tmp_path / "sub/link", "up")
        assert store.read_bytes("up") == b"old"
        store.download("x", tmp_path / "sub/link", overwrite=True)
        assert (tmp_path / "sub/link").is_symlink()
        assert (tmp_path / "real").read_bytes() == b"new"
        with pytest.raises(ConfigError, match="not to str"):
            store.transfer("x", "s3://bucket", "y")


def test_of_two_places_on_disk_with_one_name_the_right_one_is_named(tmp_path):
    with Store(LocalBackend(tmp_path / "store")) as store:
        with pytest.raises(NotFound) as mine:
            store.download("x", tmp_path / "x")
        assert mine.value.path == "x"
        with pytest.raises(NotFound) as local:
            store.upload(tmp_path / "x", "x")
        assert local.value.path == str(tmp_path / "x")
        store.write("x", b"1")
        (tmp_path / "x").write_bytes(b"2")
        with pytest.raises(AlreadyExists) as mine:
            store.upload(tmp_path / "x", "x")
        assert mine.value.path == "x"
        with pytest.raises(AlreadyExists) as local:
            store.download("x", tmp_path / "x")
        assert local.value.path == str(tmp_path / "x")


@pytest.mark.parametrize(
    ("make", "plant"),
    [
        pytest.param(lambda: test_s3.fresh("moto"), test_s3.plant, id="s3-moto", marks=pytest.mark.ci_only),
        pytest.param(lambda: test_s3.fresh("seaweedfs"), test_s3.plant, id="s3"),
        pytest.param(gcs_places.fresh, gcs_places.plant, id="gcs"),
        pytest.param(azure_places.fresh, azure_places.plant, id="azure", marks=pytest.mark.ci_only),
    ],
)
def test_a_folder_that_is_but_a_marker_is_deleted(make, plant):
    backend = make()
    plant(backend, "d/", b"")
    with Store(backend) as store:
        assert store.is_folder("d")
        store.delete_folder("d")
        assert test_s3.peek(backend, "d/") is None if backend.name == "s3" else not store.is_folder("d")


def test_who_may_not_list_hears_of_what_he_asked_for():
    class Unlisted(MemoryBackend):
        def __init__(self):
            super().__init__()
            self.features = dataclasses.replace(self.features, list=False, dirs=False)

        def list(self, *arguments):
            raise CapabilityNotSupported("no listing", capability="list")

        list_dir = list

    class Forbidden(MemoryBackend):
        def list_dir(self, path=""):
            raise PermissionDenied("no")

    for backend in (Unlisted(), Forbidden()):
        with Store(backend) as store:
            for call in (store.read_bytes, store.stat, store.open, store.delete):
                with pytest.raises(NotFound):
                    call("nope")
    assert not Store(Unlisted()).exists("nope")


def test_upload_download_and_transfer(store, tmp_path):
    told = []
    data = b"0123456789" * 1000
    (tmp_path / "a#b?.bin").write_bytes(data)
    store.upload(tmp_path / "a#b?.bin", "up/a", overwrite=True, progress=told.append)
    assert store.read_bytes("up/a") == data
    assert sum(told) == len(data)
    store.download("up/a", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    with pytest.raises(AlreadyExists):
        store.download("up/a", tmp_path / "back")
    (tmp_path / "back").write_bytes(b"old")
    store.download("up/a", tmp_path / "back", overwrite=True)
    assert (tmp_path / "back").read_bytes() == data
    with Store(MemoryBackend(), "elsewhere") as other:
        store.transfer("up/a", other, "got")
        assert other.read_bytes("got") == data
        other.transfer("got", store, "again", overwrite=True)
        assert store.read_bytes("again") == data


def test_checksums(store):
    store.write("x", b"123456789", overwrite=True)
    sha256 = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
    assert store.checksum("x") == store.checksum("x", "SHA-256") == sha256
    assert store.checksum("x", "crc32c") == "e3069283"
    assert store.checksum("x", "md5") == "25f9e794323b453885f5181f1b624d0b"
    assert store.verify("x", sha256.upper())
    assert store.verify("x", "crc32c:e3069283")
    assert not store.verify("x", "0" * 64)
    for unknown in ("nope", "shake_128"):
        with pytest.raises(ConfigError, match=unknown.partition("_")[0]):
            store.checksum("x", unknown)


# -- what it is --------------------------------------------------------------------------------------------------------


def test_a_thousand_children_open_nothing_and_close_nothing():
    class Counting(MemoryBackend):
        closed = 0

        def close(self):
            type(self).closed += 1

    backend = Counting()
    store = Store(backend)
    children = [store.child(f"c{number}").child("x") for number in range(1000)]
    for child in children:
        with child:
            pass
        child.close()
    assert Counting.closed == 0
    children[7].write("y", b"1")
    assert store.read_bytes("c7/x/y") == b"1"
    store.close()
    assert Counting.closed == 1


def test_equality_is_that_of_backend_and_root(store):
    backend = store._backend
    same = Store(backend, "root/of it", owns=False)
    assert store == same
    assert hash(store) == hash(same)
    assert store.child("x") == same.child("x") != store.child("y")
    assert store != Store(MemoryBackend(), "root/of it")
    assert store != "store"
    assert len({store, same, store.child("x")}) == 2
    with pytest.raises(AttributeError):
        store.name = "other"
    assert store.root_path == "root/of it"


def test_pickles_as_configuration(store):
    if store.name in ("memory", "BasicBackend", "basic", "tiered"):  # what lives in this process
        return
    fill(store, "d/x")
    with pickle.loads(pickle.dumps(store)) as again:
        assert again.child("d").read_bytes("x") == b"d/x"
        assert again.root_path == "root/of it"
    with pytest.raises(BackendClosed):
        again.read_bytes("d/x")
    whole, child = pickle.loads(pickle.dumps((store, store.child("d"))))
    child.close()
    assert child.read_bytes("x") == whole.read_bytes("d/x") == b"d/x"
    whole.close()
    assert store.read_bytes("d/x") == b"d/x"


def test_a_copied_child_owns_as_little(store):
    for copied in (copy.copy(store.child("a")), copy.deepcopy(store.child("a"))):
        assert copied == store.child("a")
        copied.close()
    assert store.exists("")
    for change in (lambda: delattr(store, "_owns"), lambda: setattr(store, "_owns", True)):
        with pytest.raises(AttributeError):
            change()


def test_resolve_is_pure_and_a_probe_looks(store):
    plan = store.resolve("a/b")
    assert (plan.kind, plan.key) in ((plan.kind, "a/b"),)
    assert plan.details == store.resolve("a/b").details
    assert store.resolve("a/b", probe=True).details["exists"] is False
    fill(store, "a/b")
    assert store.resolve("a/b", probe=True).details["exists"] is True


def test_resolve_does_no_io():
    class Dead(MemoryBackend):
        def __getattribute__(self, name):
            if name.startswith(("open_", "list", "stat", "exists", "_")) and name not in ("__class__", "_closed"):
                raise AssertionError(name)
            return super().__getattribute__(name)

    store = object.__new__(Store)
    for name, value in {"_backend": None, "_root": "", "_owns": False, "_at": Dead()}.items():
        object.__setattr__(store, name, value)
    assert store.resolve("a/b").kind == "blob"


def test_native_paths_lead_back(store):
    for key in ("a", "a/b c", "é/ü"):
        assert store.native_path(key) == f"root/of it/{key}"
        assert store.to_key(store.native_path(key)) == key
    if store.url is not None:
        assert store.to_key(store.url + "a/b%20c") == "a/b c"
        assert store.to_key(store.url) == store.to_key(store.url.rstrip("/")) == ""
    for elsewhere in ("elsewhere/x", "file:///other/place", "root/of itself/x"):
        with pytest.raises(InvalidPath):
            store.to_key(elsewhere)
    for elsewhere in ("/etc/passwd", "file:///x"):
        with pytest.raises(InvalidPath):
            Store(MemoryBackend()).to_key(elsewhere)


def test_ping(store):
    fill(store, "x")
    store.ping()
    backend = store._backend
    store.close()
    with pytest.raises(BackendClosed):
        Store(backend).ping()


def test_unwrap(store):
    assert type(store.unwrap(type(store._backend))) is type(store._backend)
    assert store.unwrap(Prefix) is store.as_backend() or store.name in ("basic", "BasicBackend")
    with pytest.raises(CapabilityNotSupported, match="int"):
        store.unwrap(int)


def _handles():
    import azure.storage.blob
    import botocore.client
    import google.cloud.storage
    import sqlalchemy

    sql = (sqlalchemy.Engine, lambda engine: engine.connect().close())
    containers = (azure.storage.blob.ContainerClient, lambda client: client.get_container_properties())
    return {
        "local": (Path, lambda path: list(path.iterdir())),
        "sqlite": sql,
        "postgresql": sql,
        "mariadb": sql,
        "s3": (botocore.client.BaseClient, lambda client: client.list_buckets()),
        "s3-moto": (botocore.client.BaseClient, lambda client: client.list_buckets()),
        "gcs": (google.cloud.storage.Client, lambda client: list(client.list_buckets())),
        "azure": containers,
        "azure-hns": (azure.storage.blob.ContainerClient, lambda client: client.url),
    }


@pytest.mark.parametrize("name", params(*sorted(PLACES), shown=(*SHOWN, "gcs", "s3")))
def test_unwrap_gives_the_native_handle_which_works(name):
    handles = _handles()
    with Store(PLACES[name](), "root") as store:
        if name in handles:
            kind, use = handles[name]
            fill(store, "x")
            handle = store.child("d").unwrap(kind)
            assert isinstance(handle, kind)
            use(handle)
        else:
            with pytest.raises(CapabilityNotSupported):
                store.unwrap(Path)


def test_threads_share_a_store(store):
    def one(number):
        store.write(f"t/{number}", str(number).encode(), overwrite=True)
        return store.read_bytes(f"t/{number}") == str(number).encode()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(24)))
    assert len(list(store.list_files("t"))) == 24
    assert threading.active_count() < 100


def test_a_store_on_a_store_and_on_nothing():
    with Store(MemoryBackend()) as store:
        assert Store(store.child("a")) == store.child("a")
        inner = Store(store.child("a"), "b")
        inner.write("x", b"1")
        inner.close()
        assert store.read_bytes("a/b/x") == b"1"
    for wrong in ("s3://bucket", None, 5):
        with pytest.raises(ConfigError, match="stands on a backend"):
            Store(wrong)


# -- capabilities ------------------------------------------------------------------------------------------------------


def test_every_capability_has_a_source_and_every_flag_and_power_a_place():
    from omnistorage.core import POWERS

    assert set(SOURCES) == set(Capability)
    flags = {source for source in SOURCES.values() if isinstance(source, str)}
    powers = {source.__name__ for source in SOURCES.values() if not isinstance(source, str)}
    assert flags <= set(Features.flags())
    assert set(Features.flags()) - flags <= INTERNAL
    assert {kind.__name__ for kind in POWERS} - powers <= INTERNAL


def test_supports_is_what_capabilities_says(store):
    assert store.capabilities == {each for each in Capability if store.supports(each)}
    assert store.supports("read")
    with pytest.raises(ValueError, match="nope"):
        store.supports("nope")
    assert {"read", "write", "list", "seekable_read"} <= store.capabilities


def test_what_is_not_there_is_refused_by_name(store):
    fill(store, "x")
    if not can(store, Capability.PRESIGN):
        with pytest.raises(CapabilityNotSupported) as caught:
            store.presign("x", expires=timedelta(minutes=1))
        assert caught.value.capability == "presign"
    elif store.name != "gcs":  # whose key signs, and nobody has one here
        assert "x" in store.presign("x", expires=timedelta(minutes=1))
    if not can(store, Capability.VERSIONS):
        with pytest.raises(CapabilityNotSupported, match="VERSIONS"):
            store.versions("x")


def test_a_local_store_takes_path_objects_and_never_leaves_its_root(tmp_path):
    from omnistorage import open_store

    (tmp_path / "secret").write_text("s")
    with open_store(tmp_path / "root") as store:
        store.write(Path("a/b"), b"1")
        assert (tmp_path / "root/a/b").read_bytes() == b"1"
        with pytest.raises(InvalidPath):
            store.read_bytes("../secret")


@pytest.mark.parametrize("name", ["memory", "local", "sqlite", "tiers"])
def test_rs_7_4_neither_the_first_bytes_nor_an_atomic_write_hold_a_whole_object(name):
    import tracemalloc

    size, block = 32 << 20, bytes(1 << 20)
    with Store(PLACES[name](), "root") as store:
        tracemalloc.start()
        try:
            with store.open_atomic("big") as file:
                for _ in range(size >> 20):
                    file.write(block)
            written = tracemalloc.get_traced_memory()[1]
            kept = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with store.read("big") as stream:
                assert stream.read(16) == bytes(16)
            read = tracemalloc.get_traced_memory()[1] - kept
        finally:
            tracemalloc.stop()
        assert read < 4 << 20
        assert written < (16 << 20 if name in ("local", "sqlite") else size * 2 + (4 << 20))
