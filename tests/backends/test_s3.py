"""S3: the kit against SeaweedFS and moto, and what is S3's own."""

import copy
import hashlib
import itertools
import multiprocessing
import os
import pathlib
import pickle
import random
import tomllib
import traceback
import urllib.request
import warnings
from datetime import timedelta

import pytest

from omnistorage import BackendConfig, Store, open_backend, ops
from omnistorage.backends.s3 import S3Backend
from omnistorage.backends.s3.client import S3Client
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.config import locate
from omnistorage.core import CopyOptions, Features, ListOptions, ReadOptions, WriteOptions
from omnistorage.core.secret import Secret
from omnistorage.errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    StorageError,
)
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from ..servers import server
from ..servers.proxy import Proxy
from ..servers.s3 import bare
from ..waiting import until

_numbers = itertools.count()


def fresh(name, *, endpoint=None, **options):
    """A backend of its own prefix in the bucket of the server ``name``."""
    info = server(name)
    return S3Backend(
        info["bucket"],
        f"t{os.getpid()}-{next(_numbers)}",
        endpoint_url=endpoint or info["endpoint"],
        access_key=info["access_key"],
        secret_key=Secret(info["secret_key"], pickle=True),
        vendor=name,
        **{"client": "sdk", **options},
    )


_bare = {}


def sdk(name):
    if name not in _bare:
        _bare[name] = bare(server(name))
    return _bare[name]


def peek(backend, path):
    client = sdk(backend._options["vendor"])
    try:
        return client.get_object(Bucket=backend.bucket, Key=backend._prefix + path)["Body"].read()
    except client.exceptions.NoSuchKey:
        return None


_lent = {}


def with_lent_sdk(backend):
    """Let ``backend`` use the SDK's client of an earlier backend: to make one takes as long as a whole test."""

    def make_client():
        place = (type(backend), backend._options["vendor"], backend._options["client"], os.getpid())
        if place not in _lent:
            _lent[place] = S3Backend._make_client(backend)
        client = copy.copy(_lent[place])
        client.skip = len(backend._prefix)
        return client

    backend._make_client = make_client
    return backend


class S3Tests(BackendTests):
    server = ""

    def make(self):
        return with_lent_sdk(fresh(self.server))

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        sdk(self.server).put_object(Bucket=backend.bucket, Key=backend._prefix + path, Body=data)


class TestSeaweedFS(S3Tests):
    server = "seaweedfs"

    @pytest.mark.ci_only
    def test_overwrite_false_has_exactly_one_winner(self, backend):
        """SeaweedFS makes the losers wait for seconds. By default ``test_s3_requests.py`` has one such race."""
        super().test_overwrite_false_has_exactly_one_winner(backend)


@pytest.mark.ci_only
class TestSeaweedFSObstore(S3Tests):
    def make(self):
        return fresh("seaweedfs", client="obstore")

    server = "seaweedfs"


@pytest.mark.ci_only
class TestMoto(S3Tests):
    server = "moto"


STEPS = pick(default=20, ci=500, soak=50_000)
LENGTH = min(STEPS, 50)
# SeaweedFS removes emptied folders in the background, and takes one that is left for an object under If-None-Match.
TestGoal32SeaweedFS = backend_machine(lambda: fresh("seaweedfs"), steps=STEPS, length=LENGTH, peek=peek, one_kind=True)
TestGoal32Obstore = backend_machine(
    lambda: fresh("seaweedfs", client="obstore"), steps=STEPS, length=LENGTH, peek=peek, one_kind=True
)
TestGoal32Moto = pytest.mark.ci_only(backend_machine(lambda: fresh("moto"), steps=STEPS, length=LENGTH, peek=peek))
TestGoal32MotoObstore = pytest.mark.ci_only(
    backend_machine(lambda: fresh("moto", client="obstore"), steps=STEPS, length=LENGTH, peek=peek)
)


# -- keys that others have made ----------------------------------------------------------------------------------------


@pytest.fixture(params=["seaweedfs", pytest.param("moto", marks=pytest.mark.ci_only), "swift"])
def store(request):
    with fresh(request.param) as store:
        yield store


@pytest.fixture
def moto():
    with fresh("moto") as store:
        yield store


def plant(store, key, data=b"x"):
    sdk(store._options["vendor"]).put_object(Bucket=store.bucket, Key=store._prefix + key, Body=data)


def test_rs_7_1_4_keys_with_empty_segments_are_listed_once_and_read_back(moto):
    planted = ["D//x", "D//", "D/a", "/lead", "a b/ü+%25.txt", "t/", "t/u"]
    for key in planted:
        plant(moto, key, key.encode())
    found = [info.path for info in moto.list()]
    assert found == sorted((key for key in planted if not key.endswith("/")), key=str.encode)
    for path in found:
        assert ops.read_bytes(moto, path) == path.encode()
        assert moto.stat(path).path == path
    assert [info.path for info in moto.list("D")] == ["D//x", "D/a"]
    assert {info.path for info in ops.walk(moto) if not info.is_dir} == set(found)
    assert [(info.path, info.kind) for info in moto.list_dir("D")] == [("D//", "dir"), ("D/a", "file")]
    assert [info.path for info in moto.list_dir("D//")] == ["D//x"], "a folder without a name has children of its own"
    assert [(info.path, info.kind) for info in moto.list_dir("t")] == [("t/u", "file")]


def test_a_marker_is_a_folder_and_no_object(moto):
    plant(moto, "empty/", b"")
    assert list(moto.list()) == []
    assert [(info.path, info.kind) for info in moto.list_dir()] == [("empty", "dir")]
    assert list(moto.list_dir("empty")) == []
    assert not moto.exists("empty")
    with pytest.raises(NotFound):
        moto.list_dir("other").__next__()


def test_a_key_that_no_path_can_name_is_reported_never_left_out(moto):
    for key in ("a", "b/../c", "d"):
        plant(moto, key)
    with pytest.raises(InvalidPath):
        list(moto.list())
    told = []
    assert [info.path for info in moto.list("", ListOptions(on_error=told.append))] == ["a", "d"]
    assert [error.path for error in told] == ["b/../c"]


def test_go_f2_no_path_reaches_beyond_the_prefix(store):
    plant(store, "inside")
    for path in ("../x", "a/../../x", ".."):
        with pytest.raises(InvalidPath):
            store.open_reader(path)
        with pytest.raises(InvalidPath):
            list(store.list(path))


def test_go_f6_copies_take_any_name(moto):
    for number, key in enumerate(("with space", "a+b", "ü/ñ", "100%", "q?x=1&y#z", "b\\s")):
        with moto.open_writer(key) as writer:
            writer.write(key.encode())
        moto.copy(key, f"copy {number}/{key}")
        assert ops.read_bytes(moto, f"copy {number}/{key}") == key.encode()
        moto.move(f"copy {number}/{key}", f"{number} mövd")
        assert ops.read_bytes(moto, f"{number} mövd") == key.encode()


def test_go_f6_a_range_past_the_end_is_short_or_empty_as_everywhere(store):
    plant(store, "x", b"12345")
    assert ops.read_bytes(store, "x", ReadOptions(5)) == b""
    assert ops.read_bytes(store, "x", ReadOptions(100, 5)) == b""
    assert ops.read_bytes(store, "x", ReadOptions(3, 100)) == b"45"
    assert ops.read_bytes(store, "x", ReadOptions(0, 0)) == b""


def test_go_f6_a_long_object_is_copied_in_parts(monkeypatch, store):
    monkeypatch.setattr("omnistorage.backends.s3.backend.MAX_COPY", 6 << 20)
    data = random.Random(6).randbytes(6 << 20) + b"!"
    with store.open_writer("src", WriteOptions(user_metadata={"k": "v"}, content_type="text/x")) as writer:
        writer.write(data)

    def too_long(*args, **more):
        raise StorageError("InvalidRequest: The specified copy source is larger than the maximum allowable size")

    monkeypatch.setattr(store.client, "copy", too_long)
    info = store.copy("src", "dst")
    assert info.size == len(data)
    assert ops.read_bytes(store, "dst") == data
    assert store.stat("dst").metadata == {"k": "v"}
    assert store.stat("dst").content_type == "text/x"


def test_go_s8_a_move_onto_itself_through_another_root_loses_nothing(store):
    with S3Backend(**{**store._options, "prefix": ""}) as root:
        plant(store, "k", b"the only copy")
        inside = f"{store._prefix}k"
        store.move("k", "k", CopyOptions(source=store))
        assert store.move("k", "k", CopyOptions()).path == "k"
        store.move(inside, "k", CopyOptions(source=root))
        root.move("k", inside, CopyOptions(source=store))
        with pytest.raises(ConfigError):
            store.move(inside, "k", CopyOptions(source=root, user_metadata={"n": "1"}))
        assert ops.read_bytes(store, "k") == b"the only copy"


def test_a_move_deletes_what_it_copied_and_nothing_newer():
    with fresh("seaweedfs") as store:
        plant(store, "src", b"old")
        copy = store._copy

        def overtaken(*args):
            info = copy(*args)
            if args[0] == "src" and ops.read_bytes(store, "src") == b"old":
                plant(store, "src", b"newer")
            return info

        store._copy = overtaken
        store.move("src", "dst")
        assert ops.read_bytes(store, "dst") == b"newer"
        assert not store.exists("src")
        with store.open_writer("long") as writer:
            writer.write(b"1" * (store.part_size + 1))
        store.move("long", "moved")
        assert [info.path for info in store.list()] == ["dst", "moved"]


def test_a_long_object_that_nobody_touches_is_copied_once_to_be_moved():
    with fresh("seaweedfs") as store:
        with store.open_writer("long") as writer:
            writer.write(b"1" * (store.part_size + 1))
        copy, copies = store.client.copy, []

        def later(*args, **more):  # as if the source were older than the copy
            copies.append(copy(*args, **more))
            return copies[-1]._replace(
                etag="its own", modified_at=store.stat("long").modified_at + timedelta(seconds=2)
            )

        store.client.copy = later
        store.move("long", "moved")
        assert len(copies) == 1
        assert [info.path for info in store.list()] == ["moved"]


def test_a_store_refuses_at_once_what_is_too_long_for_its_condition():
    """SeaweedFS has several winners where an upload by parts is completed."""
    with fresh("seaweedfs", part_size=5 << 20) as store:
        data = b"1" * (5 << 20)
        assert Store(store).write("new", data).size == len(data)
        with pytest.raises(CapabilityNotSupported) as caught:
            Store(store).write("longer", data + b"1")
        assert (caught.value.capability, caught.value.op) == ("conditional_uploads", "open_writer")
        assert Store(store).write("longer", data + b"1", overwrite=True).size == len(data) + 1


def test_a_copy_with_conditions_keeps_what_others_have_put_there(moto):
    sdk("moto").put_object(
        Bucket=moto.bucket, Key=moto._prefix + "src", Body=b"x", Metadata={"my-key": "v"}, ContentEncoding="gzip",
        CacheControl="no-store", ContentType="text/x",
    )  # fmt: skip
    with S3Backend(**{**moto._options, "conditional_writes": True}) as store:
        store.copy("src", "dst", CopyOptions(overwrite=False))
    head = sdk("moto").head_object(Bucket=moto.bucket, Key=moto._prefix + "dst")
    assert (head["ContentEncoding"], head["CacheControl"], head["ContentType"]) == ("gzip", "no-store", "text/x")
    assert head["Metadata"]["my-key"] == "v"


def test_a_backslash_is_no_way_to_another_object():
    with fresh("seaweedfs") as store:
        plant(store, "a/b", b"x")
        assert not store.exists("a\\b")
        assert isinstance(dict(store.delete_many(["a\\b"]))["a\\b"], InvalidPath)
        for call in (store.delete, store.stat, store.open_reader, lambda path: store.copy(path, "c")):
            with pytest.raises(InvalidPath):
                call("a\\b")
        assert ops.read_bytes(store, "a/b") == b"x"


# -- what goes with an object ------------------------------------------------------------------------------------------


def test_go_f6_storage_class_tags_and_headers_go_with_the_object(moto):
    extra = {"s3.storage_class": "STANDARD_IA", "s3.tags": {"team": "a b"}, "s3.cache_control": "no-store"}
    for body in (b"small", b"1" * (moto.part_size + 1)):
        with moto.open_writer("x", WriteOptions(extra=extra, content_type="text/plain")) as writer:
            writer.write(body)
        head = sdk("moto").head_object(Bucket=moto.bucket, Key=moto._prefix + "x")
        assert (head["StorageClass"], head["CacheControl"], head["ContentType"]) == (
            "STANDARD_IA", "no-store", "text/plain",
        )  # fmt: skip
        tags = sdk("moto").get_object_tagging(Bucket=moto.bucket, Key=moto._prefix + "x")["TagSet"]
        assert tags == [{"Key": "team", "Value": "a b"}]
    with pytest.raises(CapabilityNotSupported, match=r"s3\.strage"):
        moto.open_writer("x", WriteOptions(extra={"s3.strage_class": "X"}))


def test_rs_7_5_the_content_type_follows_the_suffix(moto):
    for path, kind in (("a.json", "application/json"), ("b.html", "text/html"), ("c", "application/octet-stream"),
                       ("d.csv.gz", "application/octet-stream")):  # fmt: skip
        moto.open_writer(path).close()
        assert moto.stat(path).content_type == kind


def test_an_etag_is_an_md5_only_where_it_is_one(store):
    with store.open_writer("x") as writer:
        writer.write(b"data")
    assert store.stat("x").hash("md5") == hashlib.md5(b"data").hexdigest()
    with store.open_writer("long") as writer:
        writer.write(b"1" * (store.part_size + 1))
    assert store.stat("long").hash("md5") is None
    client = S3Client(store.client.sdk, "b", 0, checksums=False, md5_etags=True)
    etag = {"ETag": '"8d777f385d3dfec8815d20f7496026dc"'}
    assert client._hashes(etag) == {"md5": "8d777f385d3dfec8815d20f7496026dc"}
    assert client._hashes({**etag, "ServerSideEncryption": "aws:kms"}) is None
    assert client._hashes({**etag, "SSECustomerAlgorithm": "AES256"}) is None


def test_presigned_urls_work_for_whoever_holds_them(store):
    with store.open_writer("a b/ü") as writer:
        writer.write(b"data")
    url = store.presign("a b/ü", "GET", timedelta(minutes=5))
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"data"
    url = store.presign("new", "PUT", timedelta(minutes=5))
    put = urllib.request.Request(url, data=b"put", method="PUT", headers={"Content-Type": "x/y"})
    urllib.request.urlopen(put, timeout=10).close()
    assert ops.read_bytes(store, "new") == b"put"
    with pytest.raises(ConfigError):
        store.presign("x", "PATCH", timedelta(minutes=5))


@pytest.mark.parametrize("name", ["seaweedfs", pytest.param("moto", marks=pytest.mark.ci_only), "swift"])
def test_versions_are_listed_newest_first_and_can_be_read(name):
    bucket = f"versions-{os.getpid()}"
    client = sdk(name)
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with fresh(name) as inside, S3Backend(**{**inside._options, "bucket": bucket}) as store:
        for number in range(3):
            with store.open_writer("x") as writer:
                writer.write(b"%d" % number)
        with store.open_writer("x2") as writer:
            writer.write(b"a neighbour")
        found = list(store.versions("x"))
        assert [ops.read_bytes(store, "x", ReadOptions(version=info.version)) for info in found] == [b"2", b"1", b"0"]
        with pytest.raises(NotFound):
            next(store.versions("missing"))


def test_many_ranges_are_of_one_version(store):
    with store.open_writer("x") as writer:
        writer.write(bytes(range(256)) * 100)
    wanted = [(0, 3), (25_599, 10), (30_000, 1), (256, 2), (7, 0)]
    assert store.read_ranges("x", wanted) == [b"\0\1\2", b"\xff", b"", b"\0\1", b""]


# -- configuration -----------------------------------------------------------------------------------------------------


def test_a_url_names_bucket_and_key_or_root():
    url = "s3://bucket/a%20b/c?endpoint_url=http://127.0.0.1:9&vendor=seaweedfs&part_size=6000000&anonymous=true"
    with open_backend(url) as store:
        assert (store.bucket, store._prefix, store.part_size) == ("bucket", "a b/c/", 6_000_000)
        assert store.url == "s3+http://127.0.0.1:9/bucket/a b/c/"
        assert store.features.create_only
    backend, path = locate("s3://bucket/logs/a.ndjson.zst")
    assert (backend.url, path) == ("s3://bucket/", "logs/a.ndjson.zst")
    for wrong in (
        "s3://",
        "s3:///x",
        "s3://key:canary-secret@bucket/x",
        "s3://bucket/x?vendor=nobody",
        "s3://b/x?regoin=y",
    ):
        with pytest.raises(ConfigError) as caught:
            open_backend(wrong)
        assert "canary-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"bucket": ""}, {"bucket": "a/b"}, {"prefix": "a/../b"}, {"vendor": "x"}, {"addressing": "x"}, {"part_size": 1},
     {"concurrency": 0}, {"access_key": "x"}, {"endpoint_url": "ftp://x"}, {"endpoint_url": "http://u:canary@h/"},
     {"endpoint_url": "https://other.example\\.amazonaws.com"}],
)  # fmt: skip
def test_wrong_options_are_refused_when_they_are_given(options):
    with pytest.raises((ConfigError, InvalidPath)) as caught:
        S3Backend(**{"bucket": "bucket", **options})
    assert "canary" not in str(caught.value)


def test_pain_11_checksums_are_on_for_aws_and_as_required_elsewhere():
    keys = {"access_key": "a", "secret_key": "b", "region": "eu-west-1"}
    for options, wanted in (
        ({}, "when_supported"),
        ({"endpoint_url": "http://127.0.0.1:9"}, "when_required"),
        ({"endpoint_url": "http://127.0.0.1:9", "checksums": True}, "when_supported"),
        ({"checksums": False}, "when_required"),
    ):
        with S3Backend("bucket", **keys, **options) as store:
            config = store.client.sdk.meta.config
            assert (config.request_checksum_calculation, config.response_checksum_validation) == (wanted, wanted)
            assert config.retries["total_max_attempts"] == 1, "our policy alone tries again"


def test_pain_10_the_extra_is_boto3_alone():
    """urllib3 is what boto3 brings anyway: it is named for its floor."""
    project = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert [line.split(">")[0] for line in project["optional-dependencies"]["s3"]] == ["boto3", "urllib3"]
    assert not any("aiobotocore" in line for lines in project["optional-dependencies"].values() for line in lines)


def test_pain_14_a_server_that_is_not_known_to_keep_conditions_is_not_asked_to():
    with S3Backend("bucket", endpoint_url="http://127.0.0.1:9", conditional_writes=False) as store:
        for options in (WriteOptions(overwrite=False), WriteOptions(if_match="x")):
            with pytest.raises(CapabilityNotSupported, match="conditional_writes=true"):
                store.open_writer("x", options)
        assert not store.features.sorted_list
    with S3Backend("bucket", endpoint_url="http://127.0.0.1:9", conditional_writes=True, ordered_listing=True) as store:
        assert {"create_only", "if_match", "sorted_list"} <= {f for f in Features.flags() if getattr(store.features, f)}
        with pytest.raises(CapabilityNotSupported):
            store.delete("x", if_match="y")


def test_goal_41_secrets_are_shown_nowhere(caplog):
    caplog.set_level("DEBUG")
    secret = "canary-" + "secret"
    keys = {"access_key": "AK", "secret_key": secret, "session_token": secret}
    store = S3Backend("bucket", endpoint_url="http://127.0.0.1:9", policy=RequestPolicy(retries=0), **keys)
    shown = [repr(store), str(vars(store)), store.url]
    with pytest.raises(ConfigError) as refused:
        pickle.dumps(store)
    with pytest.raises(BackendUnavailable) as failed:
        store.stat("x")
    for error in (refused, failed):
        shown += [str(error.value), "".join(traceback.format_exception(error.value))]
    shown += [repr(BackendConfig("s3", {"bucket": "b", "access_key": "AK", "secret_key": secret}))]
    assert not [text for text in shown if secret in text]
    ours = [record for record in caplog.records if record.name.startswith("omnistorage")]
    assert not [record for record in ours if secret in record.getMessage()]
    store.close()


def test_pain_9_it_works_in_another_process_and_in_a_forked_child(store):
    with store.open_writer("x") as writer:
        writer.write(b"data")
    copy = pickle.loads(pickle.dumps(store))
    assert ops.read_bytes(copy, "x") == b"data"
    copy.close()
    for method in ("fork", "spawn"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and newer: fork beside threads
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.apply(ops.read_bytes, (store, "x")) == b"data"
    assert ops.read_bytes(store, "x") == b"data"


def test_close_ends_the_connections_of_its_own_client():
    with Proxy(server("seaweedfs")["port"]) as proxy, fresh("seaweedfs", endpoint=proxy.url) as store:
        plant(store, "x", b"data")
        assert ops.read_bytes(store, "x") == b"data"
        assert proxy.connections == 1
        assert proxy._sockets, "the client keeps the connection for the next call"
        client = store.client  # or the garbage collector might end the connections
        store.close()
        until(lambda: not proxy._sockets)
        assert client.sdk is not None


def test_a_missing_bucket_is_not_found_never_an_empty_one(store):
    with S3Backend(**{**store._options, "bucket": "no-such-bucket"}) as gone:
        for name, call in {
            "list": lambda: list(gone.list()),
            "list_dir": lambda: list(gone.list_dir()),
            "health": gone.check_health,
            "read": lambda: gone.open_reader("x"),
            "write": lambda: gone.open_writer("x").close(),
        }.items():
            if (name, store._options["vendor"]) != ("write", "seaweedfs"):  # which makes the bucket
                with pytest.raises(NotFound):
                    call()
    store.check_health()


def test_wrong_keys_are_permission_denied():
    with fresh("seaweedfs") as store:
        options = {**store._options, "access_key": "nobody", "secret_key": "wrong"}
        with S3Backend(**options) as denied, pytest.raises(PermissionDenied):
            denied.check_health()


def test_no_credentials_at_all_say_so(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    local = "http://127.0.0.1:9"
    with S3Backend("bucket", endpoint_url=local) as store, pytest.raises(PermissionDenied, match="credentials"):
        store.stat("x")
    with S3Backend("bucket", profile="nobody") as store, pytest.raises((ConfigError, PermissionDenied), match="nobody"):
        store.stat("x")


def test_the_default_chain_finds_a_profile(monkeypatch, tmp_path):
    info = server("seaweedfs")
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id={info['access_key']}\naws_secret_access_key={info['secret_key']}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with S3Backend(info["bucket"], endpoint_url=info["endpoint"], profile="mine") as store:
        store.check_health()


def test_go_f6_rclone_ignores_conditions_and_so_is_not_asked():
    """What the vendor table says is seen: a server that takes If-None-Match and does not heed it."""
    client = sdk("rclone_s3")
    for body in (b"1", b"2"):
        client.put_object(Bucket="bucket", Key="seen", Body=body, IfNoneMatch="*")
    assert client.get_object(Bucket="bucket", Key="seen")["Body"].read() == b"2"
    info = server("rclone_s3")
    with S3Backend(
        info["bucket"], f"t{os.getpid()}", endpoint_url=info["endpoint"], access_key=info["access_key"],
        secret_key=info["secret_key"], vendor="rclone",
    ) as store:  # fmt: skip
        with pytest.raises(CapabilityNotSupported):
            store.open_writer("x", WriteOptions(overwrite=False))
        data = random.Random(7).randbytes(store.part_size + 5)
        with store.open_writer("a/x") as writer:
            writer.write(data)
        assert ops.read_bytes(store, "a/x") == data
        assert ops.read_bytes(store, "a/x", ReadOptions(10, 5)) == data[10:15]
        assert [info.path for info in store.list()] == ["a/x"]
        store.copy("a/x", "b")
        store.delete("a/x")
        assert [info.path for info in store.list()] == ["b"]


@pytest.mark.parametrize("expires", [timedelta(0), timedelta(seconds=-5), timedelta(seconds=0.5), timedelta(days=400)])
def test_a_presigned_url_that_would_be_dead_is_refused(expires):
    with fresh("seaweedfs") as store, pytest.raises(ConfigError):
        store.presign("x", "GET", expires)


def test_a_key_with_a_slash_at_its_end_is_no_other_object():
    """rclone drops the slash: ``a/`` would be ``a``."""
    info = server("rclone_s3")
    keys = {"access_key": info["access_key"], "secret_key": info["secret_key"]}
    with S3Backend(info["bucket"], "slash", endpoint_url=info["endpoint"], vendor="rclone", **keys) as store:
        ops.write_bytes(store, "a", b"data")
        assert store.exists("a/") is False
        for call in (store.stat, store.delete, store.open_reader, lambda path: store.copy(path, "b")):
            with pytest.raises(InvalidPath):
                call("a/")
        assert store.exists("a")


def test_a_key_with_an_empty_segment_is_no_other_object():
    """SeaweedFS drops the segment: ``/a`` would be ``a``."""
    with fresh("seaweedfs") as store:
        sdk("seaweedfs").put_object(Bucket=store.bucket, Key=f"{store._prefix}f/a", Body=b"data")
        for path in ("/f/a", "f//a"):
            assert store.exists(path) is False
            for call in (store.stat, store.delete, store.open_reader, lambda path=path: store.copy(path, "b")):
                with pytest.raises(InvalidPath):
                    call(path) if call.__name__ != "<lambda>" else call()
        assert store.exists("f/a")
