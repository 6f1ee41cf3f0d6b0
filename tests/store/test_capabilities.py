"""Each capability of each store does what it says where it is there, and is refused where it is not."""

import io
from datetime import timedelta

import pytest

from omnistorage import (
    Capability,
    CapabilityNotSupported,
    ConfigError,
    CopyOptions,
    NotFound,
    PreconditionFailed,
    Store,
    power,
)
from omnistorage.core import Append, Glob, Presign, Versions

from ..backends import http_places
from .places import PLACES, SHOWN, params

C = Capability


def site():
    """A site that cannot be written, with one file in it."""
    backend = http_places.on_disk("nginx", "www/", listing="manifest", listing_path="list.ndjson")
    http_places.file_plant(backend, "d/x", b"content")
    http_places.file_plant(backend, "list.ndjson", b'{"path": "d/x", "size": 7}\n')
    return backend


def put(store):
    if store.supports(C.WRITE):
        store.write("d/x", b"content", overwrite=True)


def conditional(store):
    with pytest.raises(PreconditionFailed):
        store.write("d/x", b"", if_match="something else")


def seeks(store):
    with store.read_seekable("d/x") as file:
        assert (file.seek(3), file.read(2), file.seek(-1, io.SEEK_END), file.read()) == (3, b"te", 6, b"t")


def same(found, wanted):
    assert found == wanted


def signed(store):
    try:
        power(store.as_backend(), Presign).presign("d/x", "GET", timedelta(hours=1))
    except ConfigError as error:  # it could, and nobody is logged in here
        if store.name != "gcs" or "cannot sign" not in str(error):
            raise


def lazily(store):
    with store.read("d/x") as file:
        assert file.read(1) == b"c"


def atomically(store):
    with pytest.raises(KeyError), store.open_atomic("d/x", overwrite=True) as file:
        file.write(b"half")
        raise KeyError
    assert store.read_bytes("d/x") == b"content"


def moved(store):
    store.as_backend().move("d/x", "d/y", CopyOptions())
    assert (store.is_file("d/x"), store.read_bytes("d/y")) == (False, b"content")


def paths(found):
    return [info.path for info in found]


DOES = {
    C.READ: lambda store: same(store.read_bytes("d/x"), b"content"),
    C.WRITE: lambda store: store.write("d/z", b"", overwrite=True),
    C.DELETE: lambda store: store.delete("d/x"),
    C.LIST: lambda store: same(paths(store.list_files(recursive=True)), ["d/x"]),
    C.GLOB: lambda store: same(paths(power(store.as_backend(), Glob).glob("*/x")), ["d/x"]),
    C.MOVE: moved,
    C.COPY: lambda store: same(store.as_backend().copy("d/x", "d/y", CopyOptions()).path, "d/y"),
    C.ATOMIC_WRITE: atomically,
    C.ATOMIC_MOVE: moved,
    C.CREATE_ONLY: lambda store: store.write("new", b""),
    C.IF_MATCH: conditional,
    C.METADATA: lambda store: same(store.as_backend().stat("d/x").path, "d/x"),
    C.USER_METADATA: lambda store: store.write("d/x", b"", overwrite=True, metadata={"k": "v"}),
    C.SEEKABLE_READ: seeks,
    C.LAZY_READ: lazily,
    C.RANGE_READ: lambda store: same(store.read_bytes("d/x", offset=2, length=3), b"nte"),
    C.APPEND: lambda store: power(store.as_backend(), Append).open_appender("d/x").close(),
    C.PRESIGN: signed,
    C.VERSIONS: lambda store: next(iter(power(store.as_backend(), Versions).versions("d/x"))),
}
WITHOUT = {  # how users meet its absence, where what it is called on does not refuse by itself
    C.GLOB: lambda store: same(paths(store.glob("*/x")), ["d/x"]),
    C.APPEND: lambda store: store.open("d/x", "ab"),
    C.PRESIGN: lambda store: store.presign("d/x"),
    C.VERSIONS: lambda store: store.versions("d/x"),
}
STAYS = {C.GLOB, C.LAZY_READ, C.ATOMIC_MOVE}


def test_every_capability_is_asked():
    assert set(DOES) == set(Capability)


@pytest.mark.parametrize("name", params(*sorted(PLACES), "http", shown=(*SHOWN, "http", "s3")))
def test_every_cell_of_the_matrix_is_what_the_store_does(name):
    make = PLACES.get(name, site)
    with Store(make()) as store:
        for capability in Capability:
            put(store)
            if store.supports(capability):
                try:
                    DOES[capability](store)
                except CapabilityNotSupported as error:
                    # Versions of a bucket that keeps none, conditions of a server that keeps those on writes alone.
                    pytest.fail(f"{name} has {capability.name} and refuses it: {error}")
                except NotFound as error:
                    pytest.fail(f"{name}: {capability.name}: {error}")
            elif capability not in STAYS:
                with pytest.raises(CapabilityNotSupported):
                    WITHOUT.get(capability, DOES[capability])(store)
            for path in ("d/y", "d/z", "new"):
                if store.supports(C.DELETE):
                    store.delete(path, missing_ok=True)
