"""The calls that remote-store 0.33 shows its users work here, with the names of the import changed: README.md lists
them. Where that library is installed they run on it as well, so that they are what they say."""

import importlib
import importlib.util
import io
import sqlite3

import pytest

LIBS = ["omnistorage", *(["remote_store"] if importlib.util.find_spec("remote_store") else [])]


class Lib:
    def __init__(self, name):
        self.name = name
        self.top = importlib.import_module(name)
        self.backends = importlib.import_module(f"{name}.backends") if name == "remote_store" else self.top

    def __getattr__(self, name):
        return getattr(self.top, name) if hasattr(self.top, name) else getattr(self.backends, name)


@pytest.fixture(params=LIBS)
def lib(request):
    return Lib(request.param)


@pytest.fixture
def store(lib, tmp_path):
    with lib.Store(lib.LocalBackend(root=str(tmp_path))) as store:
        yield store


def test_quick_start(lib, tmp_path):
    store = lib.Store(lib.LocalBackend(root=str(tmp_path / "data")))
    store.write_text("hello.txt", "Hello, world!")
    assert store.read_text("hello.txt") == "Hello, world!"


def test_registry_from_dict(lib, tmp_path):
    config = lib.RegistryConfig.from_dict(
        {
            "backends": {"main": {"type": "local", "options": {"root": str(tmp_path)}}},
            "stores": {"data": {"backend": "main", "root_path": ""}},
        }
    )
    with lib.Registry(config) as registry:
        store = registry.get_store("data")
        store.write_text("hello.txt", "Hello, world!")
        assert store.read_text("hello.txt") == "Hello, world!"


def test_registry_of_objects(lib, tmp_path):
    config = lib.RegistryConfig(
        backends={"main": lib.BackendConfig(type="local", options={"root": str(tmp_path)})},
        stores={"data": lib.StoreProfile(backend="main", root_path="folder")},
    )
    with lib.Registry(config) as registry:
        registry.get_store("data").write("x.bin", b"\x00")
    assert (tmp_path / "folder" / "x.bin").read_bytes() == b"\x00"


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_the_same_code_moves_by_its_configuration(lib, tmp_path, kind):
    options = f'options = {{ root = "{tmp_path}" }}' if kind == "local" else ""
    file = tmp_path / "stores.toml"
    file.write_text(
        f'[backends.main]\ntype = "{kind}"\n{options}\n\n[stores.reports]\nbackend = "main"\nroot_path = "reports"\n'
    )
    with lib.Registry(lib.RegistryConfig.from_toml(file)) as registry:
        store = registry.get_store("reports")
        store.write_text("monthly/2026-03.csv", "a,b\n1,2\n")
        assert store.exists("monthly/2026-03.csv")
        assert [info.name for info in store.list_files("monthly")] == ["2026-03.csv"]


def test_reading_and_writing(store):
    store.write_text("path/to/file.txt", "text")
    store.write("path/to/data.bin", io.BytesIO(b"stream"))
    store.write("path/to/file.csv", b"1,2", overwrite=True)
    assert store.read_text("path/to/file.txt") == "text"
    assert store.read_bytes("path/to/file.csv") == b"1,2"
    with store.read("path/to/data.bin") as stream:
        assert stream.read() == b"stream"
    with store.read_seekable("path/to/data.bin") as stream:
        stream.seek(2)
        assert stream.read(2) == b"re"
    store.write_atomic("path/to/file.csv", b"3,4", overwrite=True)
    with store.open_atomic("path/to/new.csv") as file:
        file.write(b"5,6")
    assert store.read_bytes("path/to/new.csv") == b"5,6"
    assert store.head("path/to/file.csv").size == 3


def test_browsing(store):
    for path in ("reports/a.csv", "reports/b.txt", "reports/2026/c.csv", "d.csv"):
        store.write(path, b"12345")
    assert [str(info.path) for info in store.list_files("reports/", pattern="*.csv")] == ["reports/a.csv"]
    found = store.list_files("reports", recursive=True, pattern="*.csv")
    assert sorted(str(info.path) for info in found) == ["reports/2026/c.csv", "reports/a.csv"]
    found = store.list_files("", recursive=True, max_depth=1)
    assert sorted(info.name for info in found) == ["a.csv", "b.txt", "d.csv"]
    assert [entry.name for entry in store.list_folders("")] == ["reports"]
    assert sorted(child.name for child in store.iter_children("reports")) == ["2026", "a.csv", "b.txt"]
    assert sorted(info.name for info in store.glob("**/*.csv")) == ["a.csv", "c.csv", "d.csv"]
    assert (store.exists("reports"), store.is_file("reports"), store.is_folder("reports")) == (True, False, True)
    assert store.get_file_info("d.csv").size == 5
    folder = store.get_folder_info("reports")
    assert (folder.file_count, folder.total_size) == (3, 15)


def test_managing(store, lib):
    store.write("old.txt", b"1")
    store.move("old.txt", "new.txt")
    store.copy("new.txt", "copy.txt")
    store.delete("new.txt")
    store.delete("new.txt", missing_ok=True)
    with pytest.raises(lib.NotFound):
        store.delete("new.txt")
    with pytest.raises(lib.AlreadyExists):
        store.write("copy.txt", b"2")
    store.write("folder/x", b"")
    with pytest.raises(lib.DirectoryNotEmpty):
        store.delete_folder("folder")
    store.delete_folder("folder", recursive=True)
    store.delete_folder("folder", missing_ok=True)
    assert not store.exists("folder")
    with pytest.raises(lib.InvalidPath):
        store.read_bytes("../escape")


def test_utilities(store, lib):
    child = store.child("subfolder")
    child.write("x", b"1")
    assert store.read_bytes("subfolder/x") == b"1"
    assert store.supports(lib.Capability.ATOMIC_WRITE)
    assert store.supports(lib.Capability.ATOMIC_MOVE)
    assert store.resolve("subfolder/x").key == "subfolder/x"
    store.ping()
    assert store.to_key(store.native_path("subfolder/x")) == "subfolder/x"
    with pytest.raises(lib.CapabilityNotSupported):
        store.unwrap(dict)


def test_sql_blob(lib, tmp_path):
    backend = lib.SQLBlobBackend(url=f"sqlite:///{tmp_path}/objects.db", table_name="my_objects")
    with lib.Store(backend) as store:
        store.write("a/b.txt", b"content")
        store.move("a/b.txt", "a/c.txt")
        assert store.read_bytes("a/c.txt") == b"content"
        assert [info.name for info in store.glob("a/*.txt")] == ["c.txt"]
        assert store.supports(lib.Capability.ATOMIC_MOVE)
    with sqlite3.connect(tmp_path / "objects.db") as link:
        assert link.execute("SELECT count(*) FROM my_objects").fetchone() == (1,)
    link.close()


def test_sql_query(lib, tmp_path):
    with sqlite3.connect(tmp_path / "sales.db") as link:
        link.execute("CREATE TABLE sales (region TEXT, amount INTEGER)")
        link.executemany("INSERT INTO sales VALUES (?, ?)", [("eu", 1), ("us", 2), ("eu", 3)])
    link.close()
    query = "SELECT region, amount FROM sales ORDER BY amount"
    backend = lib.SQLQueryBackend(
        url=f"sqlite:///{tmp_path}/sales.db",
        queries={"sales.parquet": query, "sales.csv": query, "sales.arrow": query},
    )
    with lib.Store(backend) as store:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(io.BytesIO(store.read_bytes("sales.parquet")))
        assert table.to_pydict() == {"region": ["eu", "us", "eu"], "amount": [1, 2, 3]}
        lines = store.read_text("sales.csv").replace('"', "").split()
        assert lines == ["region,amount", "eu,1", "us,2", "eu,3"]
        assert store.read_bytes("sales.arrow")
        assert sorted(info.name for info in store.list_files("")) == ["sales.arrow", "sales.csv", "sales.parquet"]
        assert store.resolve("sales.csv").kind.replace("-", "_") == "sql_query"
        with pytest.raises(lib.NotFound):
            store.read_bytes("nothing.csv")
        with pytest.raises(lib.CapabilityNotSupported):
            store.write("x.csv", b"")
        with store.read_seekable("sales.parquet") as file:
            assert pyarrow.parquet.read_metadata(file).num_rows == 3


def test_partitions_and_batches(lib, store):
    if lib.name == "remote_store":
        from remote_store.ext.batch import batch_copy, batch_delete, batch_exists
        from remote_store.ext.partition import parse_partition, partition_path
    else:
        from omnistorage.ext import batch_copy, batch_delete, batch_exists, parse_partition, partition_path
    path = partition_path("part.parquet", year=2026, region="eu")
    assert path == "year=2026/region=eu/part.parquet"
    assert dict(parse_partition(path).partitions) == {"year": "2026", "region": "eu"}
    store.write(path, b"1")
    assert batch_copy(store, [(path, "copy")]).all_succeeded
    assert batch_exists(store, [path, "nothing"]) == {path: True, "nothing": False}
    done = batch_delete(store, [path, "copy"])
    assert (done.all_succeeded, done.total) == (True, 2)
