"""Azure: the kit against Azurite, and what is Azure's own on flat accounts."""

import gzip
import hashlib
import multiprocessing
import os
import pathlib
import pickle
import random
import sys
import tomllib
import traceback
import urllib.error
import urllib.request
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import requests

from omnistorage import BackendConfig, open_backend, ops
from omnistorage.backends.azure import AzureBackend
from omnistorage.backends.azure.writer import in_byte_order
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.config import locate
from omnistorage.core import CopyOptions, ListOptions, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.core.secret import Secret
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    MissingExtra,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
)
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from ..servers import server
from ..servers.azure import bare
from .azure_places import fresh, peek, plant, sdk


@pytest.mark.ci_only
class TestAzurite(BackendTests):
    def make(self):
        return fresh()

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        plant(backend, path, data)


def without_create():
    """Azurite takes blocks that an aborted writer left for a blob when a copy may only create one, and when it is to
    delete one."""
    backend = fresh()
    backend.features = replace(backend.features, create_only=False)
    delete = backend._delete

    def quiet(path, if_match):
        delete(path, if_match)

    backend._delete = quiet
    return backend


STEPS = pick(default=20, ci=500, soak=50_000)
LENGTH = min(STEPS, 50)
TestGoal32Azurite = backend_machine(without_create, steps=STEPS, length=LENGTH, peek=peek)


@pytest.fixture
def store():
    with fresh() as store:
        yield store


def put(store, path, data=b"data", **options):
    with store.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


# -- keys that others have made ----------------------------------------------------------------------------------------


def test_rs_7_1_4_keys_with_empty_segments_are_listed_once_and_read_back(store):
    planted = ["D//x", "D/a", "a b/ü+%25.txt", "t/", "t/u"]
    for key in planted:
        plant(store, key, key.encode())
    found = [info.path for info in store.list()]
    assert found == sorted((key for key in planted if not key.endswith("/")), key=str.encode)
    for path in found:
        assert ops.read_bytes(store, path) == path.encode()
        assert store.stat(path).path == path
    assert [info.path for info in store.list("D")] == ["D//x", "D/a"]
    assert {info.path for info in ops.walk(store) if not info.is_dir} == set(found)
    assert [(info.path, info.kind) for info in store.list_dir("D")] == [("D//", "dir"), ("D/a", "file")]
    assert [info.path for info in store.list_dir("D//")] == ["D//x"], "a folder without a name has children of its own"
    assert [(info.path, info.kind) for info in store.list_dir("t")] == [("t/u", "file")]


def test_a_marker_is_a_folder_and_no_object(store):
    plant(store, "empty/", b"")
    assert list(store.list()) == []
    assert [(info.path, info.kind) for info in store.list_dir()] == [("empty", "dir")]
    assert list(store.list_dir("empty")) == []
    assert not store.exists("empty")
    with pytest.raises(NotFound):
        next(store.list_dir("other"))


def test_go_f2_no_path_reaches_beyond_the_prefix(store):
    plant(store, "inside")
    for path in ("../x", "a/../../x", ".."):
        with pytest.raises(InvalidPath):
            store.open_reader(path)
        with pytest.raises(InvalidPath):
            list(store.list(path))
    plant(store, "a/b")
    for path in ("./inside", "a/./b", "a\\b"):  # what sends or keeps it would make another name of it
        calls = [store.open_reader, store.stat, store.delete, store.open_writer, lambda path: store.copy(path, "c")]
        for call in (
            *calls,
            lambda path: store.copy("inside", path),
            lambda path: store.presign(path, "GET", timedelta(1)),
        ):
            with pytest.raises(InvalidPath):
                call(path)
        assert not store.exists(path)
        assert isinstance(dict(store.delete_many([path]))[path], InvalidPath)
    assert [info.path for info in store.list()] == ["a/b", "inside"]
    assert peek(store, "inside") == b"x"


def test_go_f6_copies_take_any_name(store):
    for number, key in enumerate(("with space", "a+b", "ü/ñ", "100%", "q?x=1&y#z", "b's")):
        put(store, key, key.encode())
        store.copy(key, f"copy {number}/{key}")
        assert ops.read_bytes(store, f"copy {number}/{key}") == key.encode()
        store.move(f"copy {number}/{key}", f"{number} mövd")
        assert ops.read_bytes(store, f"{number} mövd") == key.encode()


def test_go_f6_a_range_past_the_end_is_short_or_empty_as_everywhere(store):
    plant(store, "x", b"12345")
    assert ops.read_bytes(store, "x", ReadOptions(5)) == b""
    assert ops.read_bytes(store, "x", ReadOptions(100, 5)) == b""
    assert ops.read_bytes(store, "x", ReadOptions(3, 100)) == b"45"
    assert ops.read_bytes(store, "x", ReadOptions(0, 0)) == b""
    plant(store, "empty", b"")
    assert ops.read_bytes(store, "empty", ReadOptions(0, 10)) == b""


def test_go_f11_go_f14_a_copy_from_another_root_of_the_account_is_made_by_the_store(store):
    container = f"other-{os.getpid()}"
    with bare({**server("azurite"), "container": container}) as other:
        other.create_container()
        other.upload_blob("p/src", b"data", metadata={"k": "v"})
    with AzureBackend(**{**store._options, "container": container, "prefix": "p"}) as source:
        store.copy("src", "dst", CopyOptions(source=source))
        store.move("src", "moved", CopyOptions(source=source))
        assert list(source.list()) == []
    assert [(info.path, info.size) for info in store.list()] == [("dst", 4), ("moved", 4)]
    assert store.stat("moved").metadata == {"k": "v"}
    with AzureBackend("c", endpoint_url="http://127.0.0.1:9/elsewhere", anonymous=True) as far:
        with pytest.raises(CapabilityNotSupported):
            store.copy("x", "y", CopyOptions(source=far))
        with pytest.raises(CapabilityNotSupported):
            store.copy("x", "y", CopyOptions(source=open_backend("memory")))


def test_go_s8_a_move_onto_itself_through_another_root_loses_nothing(store):
    with AzureBackend(**{**store._options, "prefix": ""}) as root:
        plant(store, "k", b"the only copy")
        inside = f"{store._prefix}k"
        store.move("k", "k", CopyOptions(source=store))
        assert store.move("k", "k", CopyOptions()).path == "k"
        store.move(inside, "k", CopyOptions(source=root))
        root.move("k", inside, CopyOptions(source=store))
        with pytest.raises(ConfigError):
            store.move(inside, "k", CopyOptions(source=root, user_metadata={"n": "1"}))
        assert ops.read_bytes(store, "k") == b"the only copy"


def test_a_move_deletes_what_it_copied_and_nothing_newer(store):
    plant(store, "src", b"old")
    copied = store._copied

    def overtaken(op, src, dst, options):
        found = copied(op, src, dst, options)
        if peek(store, "src") == b"old":
            plant(store, "src", b"newer")
        return found

    store._copied = overtaken
    store.move("src", "dst")
    assert peek(store, "dst") == b"newer"
    assert peek(store, "src") is None
    plant(store, "src", b"old")
    with pytest.raises(PreconditionFailed):
        store.move("src", "dst", CopyOptions(source_if_match=store.stat("src").etag))
    assert peek(store, "src") == b"newer"


def test_a_copy_keeps_what_others_have_put_there_and_no_key_may_be_ours(store):
    from azure.storage.blob import ContentSettings

    settings = ContentSettings(content_encoding="gzip", cache_control="no-store", content_type="text/x")
    plant(store, "src", content_settings=settings, metadata={"k": "v"})
    store.copy("src", "dst", CopyOptions(overwrite=False))
    store.copy("src", "bare", CopyOptions(user_metadata={}))
    found = sdk().get_blob_client(store._prefix + "dst").get_blob_properties()
    assert found.content_settings.content_encoding == "gzip"
    assert (found.content_settings.cache_control, found.content_settings.content_type) == ("no-store", "text/x")
    assert store.stat("dst").metadata == {"k": "v"}, "the write id is hidden"
    assert store.stat("bare").metadata == {}
    for metadata in ({"omnistorage_write_id": "x"}, {"k": " v"}):
        with pytest.raises(ConfigError):
            put(store, "x", user_metadata=metadata)
        with pytest.raises(ConfigError):
            store.copy("src", "x", CopyOptions(user_metadata=metadata))


def test_a_listing_in_the_order_of_utf_16_comes_in_the_order_of_utf_8():
    chance, letters = random.Random(16), ["a", "b", "\ufb00", "\uffff", "😀", "🙂", "/", "~"]
    for _ in range(300):
        paths = {"".join(chance.choices(letters, k=chance.randrange(1, 6))) for _ in range(30)}
        wanted = sorted(paths, key=str.encode)
        for order in (sorted(paths, key=lambda path: path.encode("utf-16-be")), wanted):
            assert [info.path for info in in_byte_order(ObjectInfo(path) for path in order)] == wanted


# -- what goes with an object ------------------------------------------------------------------------------------------


def test_go_f6_go_f13_tier_tags_and_headers_go_with_the_object(store):
    extra = {"azure.access_tier": "Cool", "azure.tags": {"team": "a b"}, "azure.cache_control": "no-store",
             "azure.content_disposition": "inline", "azure.content_language": "de"}  # fmt: skip
    for body in (b"small", b"1" * (store.part_size + 1)):
        put(store, "x", body, extra=extra, content_type="text/plain")
        blob = sdk().get_blob_client(store._prefix + "x")
        found = blob.get_blob_properties()
        kept = found.content_settings
        assert (found.blob_tier, kept.cache_control, kept.content_type) == ("Cool", "no-store", "text/plain")
        assert (kept.content_disposition, kept.content_language) == ("inline", "de")
        assert blob.get_blob_tags() == {"team": "a b"}
    with pytest.raises(CapabilityNotSupported, match=r"azure\.acess_tier"):
        store.open_writer("x", WriteOptions(extra={"azure.acess_tier": "Cool"}))
    with pytest.raises(CapabilityNotSupported, match="version"):
        store.open_reader("x", ReadOptions(version="1"))


def test_pain_5_nothing_is_decoded_on_its_way(store):
    from azure.storage.blob import ContentSettings

    packed = gzip.compress(b"data" * 1000)
    plant(store, "x", packed, content_settings=ContentSettings(content_encoding="gzip"))
    put(store, "a.ndjson.gz", packed)
    for path in ("x", "a.ndjson.gz"):
        assert ops.read_bytes(store, path) == packed
        assert ops.read_bytes(store, path, ReadOptions(2, 5)) == packed[2:7]
    kept = sdk().get_blob_client(store._prefix + "a.ndjson.gz").get_blob_properties().content_settings
    assert kept.content_encoding is None


def test_rs_7_5_the_content_type_follows_the_suffix(store):
    for path, kind in (("a.json", "application/json"), ("b.html", "text/html"), ("c", "application/octet-stream"),
                       ("d.csv.gz", "application/octet-stream")):  # fmt: skip
        store.open_writer(path).close()
        assert store.stat(path).content_type == kind


def test_a_stored_md5_is_told_and_one_of_the_whole_is_stored():
    with fresh(checksums=True) as store:
        for size in (5, store.part_size + 5):
            data = random.Random(size).randbytes(size)
            info = put(store, "x", data)
            assert info.hash("md5") == store.stat("x").hash("md5") == hashlib.md5(data).hexdigest()
            assert next(store.list()).hash("md5") == info.hash("md5")
            with store.open_reader("x", ReadOptions(1, 3)) as reader:
                assert reader.info.hash("md5") in (info.hash("md5"), None), "never that of the range"
            assert ops.read_bytes(store, "x") == data


def test_presigned_urls_work_for_whoever_holds_them_and_for_what_they_say(store):
    put(store, "a b/ü")
    url = store.presign("a b/ü", "GET", timedelta(minutes=5))
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"data"
    for wrong in (
        url.replace("sig=", "sig=A"),
        store.presign("other", "GET", timedelta(minutes=5)).replace("other", "a"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(wrong, timeout=10)
        refused.value.close()
    url = store.presign("new", "PUT", timedelta(minutes=5))
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "x/y"}
    urllib.request.urlopen(urllib.request.Request(url, b"put", headers, method="PUT"), timeout=10).close()
    assert ops.read_bytes(store, "new") == b"put"
    with pytest.raises(ConfigError):
        store.presign("x", "PATCH", timedelta(minutes=5))


def test_many_ranges_are_of_one_version(store):
    put(store, "x", bytes(range(256)) * 100)
    wanted = [(0, 3), (25_599, 10), (30_000, 1), (256, 2), (7, 0)]
    assert store.read_ranges("x", wanted) == [b"\0\1\2", b"\xff", b"", b"\0\1", b""]


def test_snapshots_go_with_their_blob(store):
    put(store, "x")
    sdk().get_blob_client(store._prefix + "x").create_snapshot()
    assert store.delete("x") is True
    assert store.delete("x") is False


# -- who one is --------------------------------------------------------------------------------------------------------


def container_sas():
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    info = server("azurite")
    return generate_container_sas(
        info["account_name"], info["container"], info["account_key"],
        permission=ContainerSasPermissions(read=True, write=True, delete=True, list=True, create=True, add=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip


def test_a_sas_does_all_there_is_but_sign(store):
    with fresh(account_key=None, sas_token="?" + container_sas()) as store:
        for path in ("a", "b", "c"):
            put(store, path, b"1" * (store.part_size + 1) if path == "b" else b"data")
        assert ops.read_bytes(store, "a") == b"data"
        store.copy("a", "copied")
        store.move("a", "moved", CopyOptions(overwrite=False))
        assert dict(store.delete_many(["b", "c", "nothing"])) == {"b": None, "c": None, "nothing": None}
        assert [info.path for info in store.list()] == ["copied", "moved"]
        store.check_health()
        with pytest.raises(CapabilityNotSupported):
            store.presign("copied", "GET", timedelta(minutes=5))


def test_a_connection_string_says_where_and_who(store, monkeypatch):
    info = server("azurite")
    text = (f"DefaultEndpointsProtocol=http;AccountName={info['account_name']};AccountKey={info['account_key']};"
            f"BlobEndpoint={info['endpoint']};")  # fmt: skip
    monkeypatch.setenv("AZURE_TEXT", text)
    for given in (
        text,
        Secret.env("AZURE_TEXT"),
        f"BlobEndpoint={info['endpoint']};SharedAccessSignature={container_sas()}",
    ):
        with AzureBackend(info["container"], connection_string=given) as store:
            store.check_health()
            assert store.url == f"azure+{info['endpoint']}/{info['container']}/"
    with AzureBackend("c", connection_string="UseDevelopmentStorage=true") as store:
        assert store.url == "azure+http://127.0.0.1:10000/devstoreaccount1/c/"
    with AzureBackend(
        "c", connection_string="AccountName=a;AccountKey=aw==;EndpointSuffix=core.chinacloudapi.cn"
    ) as store:
        assert store.url == "abfss://c@a.dfs.core.chinacloudapi.cn/"
    for wrong in ("nonsense", "AccountName=canary", "AccountName=a;AccountKey=aw==;BlobEndpoint=ftp://x"):
        with pytest.raises(ConfigError) as caught:
            AzureBackend("c", connection_string=wrong)
        assert "canary" not in str(caught.value)


def test_the_environment_names_an_account_where_no_option_does(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")
    assert AzureBackend("c").url == "azure+http://127.0.0.1:10000/devstoreaccount1/c/"
    assert AzureBackend("c", account_name="me").url == "abfss://c@me.dfs.core.windows.net/"
    with pytest.raises(ConfigError):
        AzureBackend("c", anonymous=True)


def test_go_f5_wrong_keys_are_permission_denied_and_a_key_that_is_none_too(store):
    for key in ("d3Jvbmc=", "not base64!"):
        with AzureBackend(**{**store._options, "account_key": key}) as denied:
            with pytest.raises(PermissionDenied):
                denied.check_health()
            with pytest.raises(PermissionDenied):
                denied.open_writer("x").close()
            with pytest.raises(PermissionDenied):
                list(denied.delete_many(["x"]))


def test_a_token_is_sent_over_https_alone_and_no_token_is_no_permission():
    class Token:
        def get_token(self, *scopes, **options):
            from azure.core.exceptions import ClientAuthenticationError

            raise ClientAuthenticationError("nobody gives one")

        def close(self):
            pass

    with (
        AzureBackend("c", endpoint_url="http://127.0.0.1:9/a", credential=Token()) as plain,
        pytest.raises(ConfigError, match="HTTPS"),
    ):
        plain.stat("x")
    with AzureBackend("c", endpoint_url="https://127.0.0.1:9/a", credential=Token()) as store:
        with pytest.raises(PermissionDenied, match="nobody gives one"):
            store.stat("x")
        with pytest.raises(ConfigError):
            pickle.dumps(store)


def test_who_gives_nothing_is_known_by_the_default_chain(monkeypatch):
    monkeypatch.setattr("azure.identity.DefaultAzureCredential.get_token", None)
    with AzureBackend("box", account_name="me") as store:
        assert type(store.client.clients.credential).__name__ == "DefaultAzureCredential"
        assert store.client.wire.url == "https://me.blob.core.windows.net/box"
        assert pickle.loads(pickle.dumps(store)).url == store.url


@pytest.mark.parametrize(
    "place",
    [
        {"account_name": "me", "endpoint_url": "https://other.example/me"},
        {"account_name": "me", "endpoint_suffix": "other.example"},
        {"account_name": "me", "endpoint_suffix": "evilcore.windows.net"},
        {"account_name": "me", "dfs_endpoint_url": "https://other.example/"},
        {"account_name": "me", "endpoint_url": "https://me.blob.core.windows.net.other.example"},
    ],
)
def test_no_other_server_is_sent_the_token_of_this_machine_unasked(place):
    with AzureBackend("box", **place) as store, pytest.raises(ConfigError):
        store.client  # noqa: B018
    with AzureBackend("box", **place, credential="default") as store:
        assert type(store.client.clients.credential).__name__ == "DefaultAzureCredential"
        assert pickle.loads(pickle.dumps(store)).url == store.url
    with AzureBackend("box", **place, anonymous=True) as store:
        assert store.client.clients.credential is None


@pytest.mark.parametrize("options", [{}, {"anonymous": True}, {"credential": "default"}])
@pytest.mark.parametrize(
    "place",
    [
        {"account_name": "other.example\\"},
        {"account_name": "me", "endpoint_suffix": "core.windows.net\\"},
        {"account_name": "other.example\\.blob.core.windows.net/"},
        {"endpoint_url": "https://other.example\\.blob.core.windows.net"},
        {"endpoint_url": "https://other.example%5C.blob.core.windows.net"},
        {"endpoint_url": "https://other.example\t.blob.core.windows.net"},
        {"endpoint_url": "https://[::1].blob.core.windows.net"},
        {"account_name": "me", "dfs_endpoint_url": "https://other.example\\.dfs.core.windows.net"},
    ],
)
def test_a_host_that_parsers_read_differently_is_refused(place, options):
    with pytest.raises(ConfigError):
        AzureBackend("box", **place, **options)


@pytest.mark.parametrize(
    "url",
    [
        "az://box/x?account_name=other.example%5C",
        "az://box/x?account_name=me&dfs_endpoint_url=https://other.example%5C.dfs.core.windows.net",
        "abfss://box@me.dfs.other.example\\.core.windows.net/x",
    ],
)
def test_a_url_names_no_host_that_parsers_read_differently(url):
    with pytest.raises(ConfigError):
        locate(url)


@pytest.mark.parametrize(
    "suffix",
    ["core.chinacloudapi.cn", "core.microsoft.scloud", "core.eaglex.ic.gov", "z01.storage.azure.net",
     "fabric.microsoft.com"],
)  # fmt: skip
def test_every_cloud_of_microsoft_is_sent_the_token_of_this_machine(suffix):
    with AzureBackend("box", account_name="me", endpoint_suffix=suffix) as store:
        assert type(store.client.clients.credential).__name__ == "DefaultAzureCredential"


def test_a_url_does_not_say_who_is_sent_the_token():
    url = "az://box/x?account_name=me&endpoint_url=https://other.example/me&credential=default"
    with pytest.raises(ConfigError):
        locate(url)
    assert locate(url, trusted_url=True)[1] == "x"


# -- configuration -----------------------------------------------------------------------------------------------------


def test_a_url_names_container_and_key_or_root():
    with open_backend("az://box/a%20b/c?account_name=me&part_size=6000000&anonymous=true") as store:
        assert (store.container, store._prefix, store.part_size) == ("box", "a b/c/", 6_000_000)
        assert store.url == "abfss://box@me.dfs.core.windows.net/a b/c/"
        assert not store.features.dirs
    with open_backend("abfss://box@me.dfs.core.windows.net/p?hierarchical=true&anonymous=true") as store:
        assert store.url == "abfss://box@me.dfs.core.windows.net/p/"
        assert store.features.dirs
        assert store._account.url == "https://me.blob.core.windows.net"
    backend, path = locate("azure://box/logs/a.ndjson.zst?account_name=me")
    assert (backend.url, path) == ("abfss://box@me.dfs.core.windows.net/", "logs/a.ndjson.zst")
    for wrong in ("az://", "az:///x?account_name=a", "az://box/x", "az://box:canary-secret@me/x", "abfss://box@me/x",
                  "az://box/x?acount_name=y", "abfss://box@.dfs.core.windows.net/x"):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            open_backend(wrong)
        assert "canary-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"container": ""}, {"container": "a/b"}, {"prefix": "a/../b"}, {"part_size": 1}, {"concurrency": 0},
     {"endpoint_url": "ftp://x"}, {"endpoint_url": "http://u:canary@h/"}, {"endpoint_url": "http://h/?sig=canary"},
     {"account_key": "canary", "sas_token": "canary"}, {"account_key": "canary", "anonymous": True},
     {"account_name": None}, {"account_key": "canary", "account_name": None, "endpoint_url": "http://h"},
     {"credential": "canary"}, {"connection_string": "AccountName=a;AccountKey=b", "endpoint_url": "http://h"}],
)  # fmt: skip
def test_go_f13_wrong_options_are_refused_when_they_are_given(options):
    with pytest.raises((ConfigError, InvalidPath)) as caught:
        AzureBackend(**{"container": "box", "account_name": "me", **options})
    assert "canary" not in str(caught.value)


def test_pain_11_checksums_are_on_for_microsoft_and_as_said_elsewhere():
    for options, wanted in (
        ({"account_name": "me"}, True),
        ({"account_name": "me", "endpoint_suffix": "core.usgovcloudapi.net"}, True),
        ({"endpoint_url": "http://127.0.0.1:9/me"}, False),
        ({"endpoint_url": "https://blob.core.windows.net.evil.example/me"}, False),
        ({"endpoint_url": "http://127.0.0.1:9/me", "checksums": True}, True),
        ({"account_name": "me", "checksums": False}, False),
    ):
        with AzureBackend("box", anonymous=True, **options) as store:
            assert store.client._checksums is wanted


def test_goal_24_our_policy_alone_tries_again():
    def broken(*args, **options):
        sent.append(1)
        raise requests.exceptions.ConnectionError("it broke")

    where = {"endpoint_url": "http://127.0.0.1:9/me", "dfs_endpoint_url": "http://127.0.0.1:9/dfs/me"}
    for hierarchical in (False, True):
        once = RequestPolicy(retries=0)
        with AzureBackend("box", anonymous=True, policy=once, hierarchical=hierarchical, **where) as store:
            store.client.clients.session.send = broken
            for call in (lambda: store.stat("x"), lambda: list(store.list()), lambda: store.delete("x")):
                sent = []
                with pytest.raises(BackendUnavailable):
                    call()
                assert sent == [1]


def test_pain_10_the_extra_is_microsofts_sdks_alone():
    project = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = [line.split(">")[0] for line in project["optional-dependencies"]["azure"]]
    floors = ["azure-core", "requests", "urllib3"]  # what the SDKs bring anyway: named for their floors
    assert names == ["azure-storage-blob", "azure-storage-file-datalake", "azure-identity", *floors]


def test_without_the_sdk_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.storage.blob", None)
    named = pytest.raises(MissingExtra, match=r'pip install "omnistorage\[azure\]"')
    with AzureBackend("box", account_name="me", anonymous=True) as store, named:
        store.stat("x")


def test_goal_41_secrets_are_shown_nowhere(caplog):
    caplog.set_level("DEBUG")
    secret = "Y2FuYXJ5" + "c2VjcmV0"
    where = {"endpoint_url": "http://127.0.0.1:9/me", "policy": RequestPolicy(retries=0)}
    text = f"BlobEndpoint=http://127.0.0.1:9/me;AccountName=me;AccountKey={secret}"
    ways = [{"account_key": secret, **where}, {"sas_token": f"sv=1&sig={secret}", **where},
            {"connection_string": text, "policy": RequestPolicy(retries=0)}]  # fmt: skip
    shown = [repr(BackendConfig("azure", {"container": "box", **ways[0]}))]
    for options in ways:
        with AzureBackend("box", **options) as store:
            shown += [repr(store), str(vars(store)), str(store.url), str(store._account)]
            calls = (lambda store=store: pickle.dumps(store), lambda store=store: store.stat("x"),
                     lambda store=store: list(store.delete_many(["x"])), lambda store=store: store.copy("x", "y"),
                     lambda store=store: store.open_writer("x").close())  # fmt: skip
            for call in calls:
                with pytest.raises((ConfigError, BackendUnavailable)) as failed:
                    call()
                shown += [str(failed.value), "".join(traceback.format_exception(failed.value))]
    assert not [text for text in shown if secret in text]
    records = [record for record in caplog.records if record.name.startswith(("omnistorage", "azure"))]
    assert not [record for record in records if secret in record.getMessage()]


def test_pain_9_it_works_in_another_process_and_in_a_forked_child(store):
    put(store, "x")
    copy = pickle.loads(pickle.dumps(store))
    assert ops.read_bytes(copy, "x") == b"data"
    copy.close()
    for method in ("fork", "spawn"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and newer: fork beside threads
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.apply(ops.read_bytes, (store, "x")) == b"data"
    assert ops.read_bytes(store, "x") == b"data"


def test_rs_7_7_a_missing_container_is_not_found_never_an_empty_one(store):
    with AzureBackend(**{**store._options, "container": "no-such-container"}) as gone:
        for call in (
            lambda: list(gone.list()),
            lambda: list(gone.list_dir()),
            gone.check_health,
            lambda: gone.open_reader("x"),
            lambda: gone.open_writer("x").close(),
            lambda: put(gone, "x", overwrite=False),
            lambda: put(gone, "x", if_match="y"),
            lambda: gone.delete("x"),
            lambda: gone.purge("x"),
        ):
            with pytest.raises(NotFound):
                call()
    store.check_health()
    assert store.is_hierarchical() is False


# -- blocks, which all writers of a blob share -------------------------------------------------------------------------


def blocks(store, path):
    return sdk().get_blob_client(store._prefix + path).get_block_list("all")


@pytest.fixture
def long(store):
    return b"1" * (store.part_size + 1)


def test_an_abort_leaves_uncommitted_blocks_at_most_which_nobody_sees(store, long):
    writer = store.open_writer("x")
    writer.write(long)
    writer.prepare()
    writer.abort()
    assert [len(kind) for kind in blocks(store, "x")] == [0, 2]
    assert not store.exists("x")
    assert list(store.list()) == list(sdk().list_blobs(store._prefix)) == []
    put(store, "x", overwrite=False)
    assert peek(store, "x") == b"data"
    assert blocks(store, "x")[1] == []
    with pytest.raises(AlreadyExists):
        put(store, "x", b"other", overwrite=False)


def test_two_long_bodies_side_by_side_never_mix_and_the_loser_is_told(store, long):
    one, two = store.open_writer("x"), store.open_writer("x")
    for _ in range(2):
        one.write(long)
        two.write(b"2" * len(long))
    two._parts.settle()  # blocks that arrive behind the other's publication are not forgotten, and the last one wins
    one.close()
    with pytest.raises(PreconditionFailed, match="write it again"):
        two.close()
    assert peek(store, "x") == 2 * long
    for options, error in (
        ({"overwrite": False}, AlreadyExists),
        ({"if_match": store.stat("x").etag}, PreconditionFailed),
    ):
        if "overwrite" in options:
            store.delete("x")
        late = store.open_writer("x", WriteOptions(**options))
        late.write(long)
        late.prepare()
        put(store, "x", b"theirs")
        with pytest.raises(error):
            late.close()
        assert peek(store, "x") == b"theirs"


def test_a_small_body_of_another_writer_never_mixes_with_blocks(store, long):
    """So the service is documented; Azurite keeps the blocks, and then the last one wins whole."""
    writer = store.open_writer("x")
    writer.write(long)
    put(store, "x", b"small")
    try:
        writer.close()
        assert peek(store, "x") == long
    except PreconditionFailed:
        assert peek(store, "x") == b"small"


def test_blocks_of_another_program_are_no_part_of_ours(store, long):
    blob = sdk().get_blob_client(store._prefix + "x")
    blob.stage_block("0" * 48, b"theirs")
    put(store, "x", long)
    assert peek(store, "x") == long


def test_order_of_a_container_with_many_pages(store):
    for name in ("b", "z/😀", "z/ﬀ", "z/a", "😀/x", "ﬀ"):
        put(store, name, b"1")
    page = store.client.page
    store.client.page = lambda prefix, **options: page(prefix, **{**options, "limit": 2})
    assert [info.path for info in store.list()] == ["b", "z/a", "z/ﬀ", "z/😀", "ﬀ", "😀/x"]
    assert [info.path for info in store.list_dir()] == ["b", "z", "ﬀ", "😀"]
    assert [info.path for info in store.list("", ListOptions(start_after="z/ﬀ"))] == ["z/😀", "ﬀ", "😀/x"]


@pytest.mark.parametrize("expires", [timedelta(0), timedelta(seconds=-5), timedelta(days=-1), timedelta(days=8)])
def test_a_presigned_url_that_would_be_dead_is_refused(expires):
    with fresh() as store, pytest.raises(ConfigError):
        store.presign("x", "GET", expires)
