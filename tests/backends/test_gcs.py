"""GCS: the kit against fake-gcs-server and our double, and what is GCS's own."""

import json
import multiprocessing
import pickle
import random
import traceback
import warnings
from datetime import timedelta

import pytest

from omnistorage import BackendConfig, open_backend, ops
from omnistorage.backends.gcs import GCSBackend
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.config import locate
from omnistorage.core import CopyOptions, Features, ListOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
)
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from ..servers.gcs import Double
from ..servers.proxy import Proxy
from .gcs_places import double, fresh, peek, plant


class GCSTests(BackendTests):
    place = ""

    def make(self):
        return fresh(self.place)

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        plant(backend, path, data)


class TestFakeGCSServer(GCSTests):
    place = "fake"


@pytest.mark.ci_only
class TestDouble(GCSTests):
    place = "double"


STEPS = pick(default=20, ci=500, soak=50_000)
LENGTH = min(STEPS, 50)
TestGoal32FakeGCSServer = backend_machine(lambda: fresh("fake"), steps=STEPS, length=LENGTH, peek=peek)
TestGoal32Double = backend_machine(lambda: fresh("double"), steps=STEPS, length=LENGTH, peek=peek)


@pytest.fixture(params=[pytest.param("fake", marks=pytest.mark.ci_only), "double"])
def store(request):
    with fresh(request.param) as store:
        yield store


def put(store, path, data=b"data", **options):
    with store.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


# -- keys that others have made ----------------------------------------------------------------------------------------


def test_rs_7_1_4_names_with_empty_segments_are_listed_once_and_read_back(store):
    planted = ["D//x", "D//", "D/a", "/lead", "a b/ü+%25.txt", "t/", "t/u", "q?x#y", "a/./b"]
    for name in planted:
        plant(store, name, name.encode())
    found = [info.path for info in store.list()]
    assert found == sorted((name for name in planted if not name.endswith("/")), key=str.encode)
    for path in found:
        assert ops.read_bytes(store, path) == path.encode()
        assert ops.read_bytes(store, path, ReadOptions(1, 2)) == path.encode()[1:3]
        assert store.stat(path).path == path
    assert [info.path for info in store.list("D")] == ["D//x", "D/a"]
    assert [(info.path, info.kind) for info in store.list_dir("t")] == [("t/u", "file")]
    assert [error for _, error in store.delete_many(found)] == [None] * len(found)
    assert list(store.list()) == []


def test_a_name_that_no_path_can_have_is_reported_never_left_out(store):
    for name in ("a", "b/../c", "d"):
        plant(store, name)
    with pytest.raises(InvalidPath):
        list(store.list())
    told = []
    assert [info.path for info in store.list("", ListOptions(on_error=told.append))] == ["a", "d"]
    assert [error.path for error in told] == ["b/../c"]


def test_go_f2_no_path_reaches_beyond_the_prefix(store):
    plant(store, "inside")
    for path in ("../x", "a/../../x", ".."):
        with pytest.raises(InvalidPath):
            store.open_reader(path)
        with pytest.raises(InvalidPath):
            list(store.list(path))


def test_go_f6_copies_take_any_name(store):
    for number, name in enumerate(("with space", "a+b", "ü/ñ", "100%", "q?x=1&y#z", "b\\s")):
        put(store, name, name.encode())
        store.copy(name, f"copy {number}/{name}")
        assert ops.read_bytes(store, f"copy {number}/{name}") == name.encode()
        store.move(f"copy {number}/{name}", f"{number} mövd")
        assert ops.read_bytes(store, f"{number} mövd") == name.encode()


def test_go_f6_a_range_past_the_end_is_short_or_empty_as_everywhere(store):
    plant(store, "x", b"12345")
    assert ops.read_bytes(store, "x", ReadOptions(5)) == b""
    assert ops.read_bytes(store, "x", ReadOptions(100, 5)) == b""
    assert ops.read_bytes(store, "x", ReadOptions(3, 100)) == b"45"
    assert ops.read_bytes(store, "x", ReadOptions(0, 0)) == b""


def test_go_s8_a_move_onto_itself_through_another_root_loses_nothing(store):
    with GCSBackend(**{**store._options, "prefix": ""}) as root:
        plant(store, "k", b"the only copy")
        inside = f"{store._prefix}k"
        store.move("k", "k", CopyOptions(source=store))
        store.move(inside, "k", CopyOptions(source=root))
        root.move("k", inside, CopyOptions(source=store))
        assert ops.read_bytes(store, "k") == b"the only copy"


def test_a_move_deletes_what_it_copied_and_nothing_newer():
    with fresh("double") as store:
        plant(store, "src", b"old")
        rewrite = store._gcs.rewrite

        def overtaken(*args):
            found = rewrite(*args)
            plant(store, "src", b"newer")
            return found

        store._gcs.rewrite = overtaken
        with pytest.raises(PreconditionFailed):
            store.move("src", "dst")
        assert peek(store, "src") == b"newer"
        assert peek(store, "dst") == b"old"


def test_a_copy_in_several_steps_is_one_copy(store):
    if store.place == "double":
        with Double() as double, fresh(double) as slow:
            double.rewrites = 4
            plant(slow, "src", b"long", metadata={"k": "v"})
            for options in (CopyOptions(), CopyOptions(overwrite=False), CopyOptions(user_metadata={"n": "1"})):
                slow.copy("src", f"dst{options.overwrite}{options.user_metadata}", options)
            assert {peek(slow, info.path) for info in slow.list()} == {b"long"}
            assert slow.stat("dstFalseNone").metadata == {"k": "v"}
            assert slow.stat("dstTrue{'n': '1'}").metadata == {"n": "1"}
    else:
        put(store, "src", b"1" * 3_000_000)
        store.copy("src", "dst")
        assert peek(store, "dst") == b"1" * 3_000_000


# -- what goes with an object ------------------------------------------------------------------------------------------


def test_go_f6_storage_class_and_headers_go_with_the_object(store):
    extra = {"gcs.storage_class": "NEARLINE", "gcs.cache_control": "no-store", "gcs.content_disposition": "inline"}
    store.part_size = 256 * 1024
    for body in (b"small", b"1" * (store.part_size + 1)):
        put(store, "x", body, extra=extra, content_type="text/plain")
        blob = store._gcs._reloaded(store._prefix + "x", None)
        assert (blob.cache_control, blob.content_disposition, blob.content_type) == ("no-store", "inline", "text/plain")
        assert blob.storage_class == "NEARLINE" or store.place == "fake"  # which knows one class only
        assert peek(store, "x") == body
    with pytest.raises(CapabilityNotSupported, match=r"gcs\.strage"):
        store.open_writer("x", WriteOptions(extra={"gcs.strage_class": "X"}))


def test_pain_5_an_object_that_says_it_is_gzip_is_read_as_it_is_stored(store):
    import gzip

    body = gzip.compress(b"text" * 1000)
    put(store, "x", body, extra={"gcs.content_encoding": "gzip"})
    assert ops.read_bytes(store, "x") == body


def test_rs_7_5_the_content_type_follows_the_suffix(store):
    for path, kind in (("a.json", "application/json"), ("b.html", "text/html"), ("c", "application/octet-stream"),
                       ("d.csv.gz", "application/octet-stream")):  # fmt: skip
        store.open_writer(path).close()
        assert store.stat(path).content_type == kind


@pytest.mark.parametrize("size", [1, 256 * 1024, 256 * 1024 + 1, 512 * 1024, 600_000, 1 << 20, (1 << 20) + 7])
def test_an_upload_of_any_length_is_whole(store, size):
    store.part_size = 256 * 1024
    data = random.Random(size).randbytes(size)
    writer = store.open_writer("x")
    for at in range(0, size, 100_000):
        writer.write(data[at : at + 100_000])
    writer.prepare()
    assert peek(store, "x") is None
    info = writer.close()
    assert peek(store, "x") == data
    assert (info.size, info.etag, info.modified_at) == (size, store.stat("x").etag, store.stat("x").modified_at)
    assert info.hash("crc32c") == store.stat("x").hash("crc32c")


def test_objects_are_composed_at_the_store(store):
    for number in range(3):
        put(store, f"part{number}", b"%d" % number * 10)
    store.compose([f"part{number}" for number in range(3)], "whole.txt", WriteOptions(user_metadata={"k": "v"}))
    assert peek(store, "whole.txt") == b"0" * 10 + b"1" * 10 + b"2" * 10
    if store.place == "double":
        assert store.stat("whole.txt").metadata == {"k": "v"}
        assert store.stat("whole.txt").content_type == "text/plain"
        with pytest.raises(AlreadyExists):
            store.compose(["part1"], "whole.txt", WriteOptions(overwrite=False))
    store.compose(["part0", "part1"], "part0")
    assert peek(store, "part0") == b"0" * 10 + b"1" * 10
    for wrong in ([], ["part1"] * 33):
        with pytest.raises(ConfigError):
            store.compose(wrong, "x")
    if store.place == "double":  # the other one answers 500
        with pytest.raises(NotFound):
            store.compose(["missing"], "x")


KEY = None


def service_account_key():
    """A key that no account has; made once, which takes a moment."""
    global KEY
    if KEY is None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        private = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        KEY = json.dumps(
            {"type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": private.decode(),
             "client_email": "a@p.iam.gserviceaccount.com", "token_uri": "http://127.0.0.1:9/token"}
        )  # fmt: skip
    return KEY


def test_presigned_urls_name_the_object_and_how_long_they_hold():
    with GCSBackend("bucket", "a b", credentials=service_account_key()) as store:
        url = store.presign("ü/c", "GET", timedelta(minutes=5))
        assert url.startswith("https://storage.googleapis.com/bucket/a%20b/%C3%BC/c?")
        assert "X-Goog-Expires=300" in url
        assert "X-Goog-Signature=" in url
        with pytest.raises(ConfigError):
            store.presign("x", "PATCH", timedelta(minutes=5))
        for expires in (timedelta(0), timedelta(days=-1), timedelta(seconds=0.5), timedelta(days=8)):
            with pytest.raises(ConfigError):
                store.presign("x", "GET", expires)
    with fresh("double") as store, pytest.raises(ConfigError, match="sign"):
        store.presign("x", "GET", timedelta(minutes=5))


def test_versions_are_listed_newest_first_and_can_be_read():
    with fresh("double") as store:
        for number in range(3):
            put(store, "x", b"%d" % number)
        put(store, "x2", b"a neighbour")
        found = list(store.versions("x"))
        assert [ops.read_bytes(store, "x", ReadOptions(version=info.version)) for info in found] == [b"2", b"1", b"0"]
        assert store.delete("x")
        assert ops.read_bytes(store, "x", ReadOptions(version=found[0].version)) == b"2"
        for missing in ("1", "no number"):
            with pytest.raises(NotFound):
                store.open_reader("x", ReadOptions(version=missing))
        with pytest.raises(NotFound):
            next(store.versions("missing"))


def test_many_ranges_are_of_one_generation(store):
    put(store, "x", bytes(range(256)) * 100)
    wanted = [(0, 3), (25_599, 10), (30_000, 1), (256, 2), (7, 0)]
    assert store.read_ranges("x", wanted) == [b"\0\1\2", b"\xff", b"", b"\0\1", b""]


def test_goal_30_a_listing_in_small_pages_is_the_same_listing():
    with Double() as double, fresh(double) as store:
        names = [f"{number:03d}/{kind}" for number in range(40) for kind in "ab"]
        for name in names:
            plant(store, name)
        for double.page in (1, 7, 80, 1000):
            assert [info.path for info in store.list()] == names
            after = ListOptions(start_after="017/a")
            assert [info.path for info in store.list("", after)] == [name for name in names if name > "017/a"]
            assert len(list(store.list_dir())) == 40


# -- configuration -----------------------------------------------------------------------------------------------------


def test_a_url_names_bucket_and_object_or_root():
    url = "gs://bucket/a%20b/c?endpoint_url=http://127.0.0.1:9&vendor=fake-gcs-server&part_size=524288&anonymous=true"
    with open_backend(url) as store:
        assert (store.bucket, store._prefix, store.part_size) == ("bucket", "a b/c/", 524_288)
        assert store.url == "gs+http://127.0.0.1:9/bucket/a b/c/"
        assert store.features.create_only
    backend, path = locate("gs://bucket/logs/a.ndjson.zst")
    assert (backend.url, path) == ("gs://bucket/", "logs/a.ndjson.zst")
    for wrong in ("gs://", "gs:///x", "gs://key:canary-secret@bucket/x", "gs://b/x?vendor=nobody", "gs://b/x?projct=y"):
        with pytest.raises(ConfigError) as caught:
            open_backend(wrong)
        assert "canary-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"bucket": ""}, {"bucket": "a/b"}, {"prefix": "a/../b"}, {"vendor": "x"}, {"part_size": 1}, {"part_size": 300_000},
     {"concurrency": 0}, {"credentials": "{}", "anonymous": True}, {"endpoint_url": "ftp://x"},
     {"endpoint_url": "http://u:canary@h/"}, {"endpoint_url": "https://other.example\\.googleapis.com"}],
)  # fmt: skip
def test_wrong_options_are_refused_when_they_are_given(options):
    with pytest.raises((ConfigError, InvalidPath)) as caught:
        GCSBackend(**{"bucket": "bucket", **options})
    assert "canary" not in str(caught.value)


def test_pain_14_a_server_that_is_not_known_to_keep_conditions_is_not_asked_to():
    with GCSBackend("bucket", endpoint_url="http://127.0.0.1:9", conditional_writes=False) as store:
        for options in (WriteOptions(overwrite=False), WriteOptions(if_match="1")):
            with pytest.raises(CapabilityNotSupported, match="conditional_writes=true"):
                store.open_writer("x", options)
        assert not store.features.sorted_list
    with GCSBackend("bucket") as google:
        flags = {flag for flag in Features.flags() if getattr(google.features, flag)}
        assert {"create_only", "if_match", "sorted_list", "list_seek"} <= flags
    with fresh("fake") as store:
        with pytest.raises(CapabilityNotSupported):
            store.copy("x", "y", CopyOptions(source_if_match="1"))
        with pytest.raises(CapabilityNotSupported):
            store.delete("x", if_match="1")


def test_the_emulator_of_the_environment_is_another_endpoint(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    with GCSBackend("bucket") as store:
        assert store.url == "gs+http://127.0.0.1:9/bucket/"
        assert not store.features.create_only
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:10")
    assert GCSBackend("bucket").url == "gs+http://127.0.0.1:10/bucket/"
    assert GCSBackend("bucket", endpoint_url="https://h").url == "gs+https://h/bucket/"


def test_goal_41_secrets_are_shown_nowhere(caplog):
    caplog.set_level("DEBUG")
    secret = "canary-" + "secret"
    key = json.dumps({"type": "service_account", "private_key": secret})
    store = GCSBackend("bucket", endpoint_url="http://127.0.0.1:9", policy=RequestPolicy(retries=0), credentials=key)
    shown = [repr(store), str(vars(store)), store.url]
    with pytest.raises(ConfigError) as refused:
        pickle.dumps(store)
    with pytest.raises(PermissionDenied) as failed:
        store.stat("x")
    for error in (refused, failed):
        shown += [str(error.value), "".join(traceback.format_exception(error.value))]
    shown += [repr(BackendConfig("gcs", {"bucket": "b", "credentials": key}))]
    assert not [text for text in shown if secret in text]
    assert not [record for record in caplog.records if secret in record.getMessage()]
    store.close()


def test_goal_41_the_url_of_an_upload_is_in_no_error():
    """Whoever knows it can write."""
    with Proxy(double().port) as proxy:
        store = fresh("double", endpoint=proxy.url, policy=RequestPolicy(retries=0), part_size=256 * 1024)
        writer = store.open_writer("x")
        writer.write(b"1" * 300_000)
        writer._parts.settle()
    with pytest.raises(BackendUnavailable) as caught:
        writer.close()
    assert "session" not in "".join(str(error) for error in (caught.value, caught.value.args))
    store.close()


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


def test_a_missing_bucket_is_not_found_never_an_empty_one(store):
    with GCSBackend(**{**store._options, "bucket": "no-such-bucket"}) as gone:
        for call in (
            lambda: list(gone.list()),
            lambda: list(gone.list_dir()),
            gone.check_health,
            lambda: gone.open_reader("x"),
            lambda: gone.open_writer("x").close(),
        ):
            with pytest.raises(NotFound):
                call()
        if store.place == "double":  # the other one says the same of an object and of a bucket
            for call in (lambda: gone.delete("x"), lambda: list(gone.delete_many(["x", "y"]))):
                with pytest.raises(NotFound):
                    call()
    store.check_health()


def test_no_credentials_at_all_say_so(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    with GCSBackend("bucket") as store, pytest.raises(PermissionDenied, match="credentials"):
        store.stat("x")
    with GCSBackend("bucket", credentials_file=str(tmp_path / "none")) as store, pytest.raises(PermissionDenied):
        store.stat("x")
    with GCSBackend("bucket", credentials="no json") as store, pytest.raises(ConfigError, match="JSON"):
        store.stat("x")


def test_the_default_chain_finds_a_key(monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text(service_account_key())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with GCSBackend("bucket") as store:
        assert "X-Goog-Credential=a%40p.iam" in store.presign("x", "GET", timedelta(minutes=5))
    with (
        GCSBackend("bucket", policy=RequestPolicy(retries=0)) as store,
        pytest.raises(BackendUnavailable, match="token"),
    ):
        store.stat("x")  # its token would come from a port where nobody listens
