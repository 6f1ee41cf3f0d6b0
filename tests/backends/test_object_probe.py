"""What is found out about the conditions of a server of which nothing was said."""

import itertools
import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from omnistorage import (
    AlreadyExists,
    CapabilityNotSupported,
    ConfigError,
    Encrypt,
    GCSBackend,
    MemoryBackend,
    MultiBackend,
    NotFound,
    ReadOnly,
    S3Backend,
    Secret,
    Store,
    Target,
    Tier,
    TieredBackend,
    WriteOptions,
    open_backend,
)
from omnistorage.backends.object_store import conditions_probe
from omnistorage.backends.object_store.client import Upload
from omnistorage.backends.object_store.conditions_probe import Kept, tried
from omnistorage.backends.s3.vendors import VENDORS, vendor_of_host, vendor_of_server
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import ObjectInfo, learned
from omnistorage.errors import BackendUnavailable, PermissionDenied, PreconditionFailed, StorageError
from omnistorage.sync import sync
from omnistorage.wrappers import Observe, Prefix

from ..servers import server
from ..servers.proxy import Proxy
from ..servers.s3 import bare
from ..waiting import LIMIT

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def nothing_found_before(monkeypatch):
    monkeypatch.setattr(conditions_probe, "FOUND", {})
    monkeypatch.setattr("omnistorage.backends.object_store.backend.FOUND", conditions_probe.FOUND)


# -- the probe, on a server in this process ----------------------------------------------------------------------------


class Server:
    """A client and its server; ``breaks`` names the promises that it does not keep."""

    skip = 0

    def __init__(self, *breaks, fails_at=None, error=None):
        self.breaks, self.fails_at, self.error = breaks, fails_at, error
        self.objects, self.uploads, self.calls = {}, {}, []
        self.lock, self.numbers, self.creates = threading.Lock(), itertools.count(1), 0

    def translate(self, error):
        return error if isinstance(error, StorageError) else None

    def _call(self, name):
        self.calls.append(name)
        if len(self.calls) == self.fails_at:
            raise self.error

    def _publish(self, key, data, put, held):
        if held and put.create and key in self.objects:
            raise PreconditionFailed("412")
        if held and put.if_match is not None and self.objects.get(key) != put.if_match:
            raise PreconditionFailed("412")
        self.objects[key] = f"etag-{next(self.numbers)}"
        return ObjectInfo(key, len(data), None, "file", self.objects[key])

    def put(self, key, data, put):
        with self.lock:
            self._call("put")
            self.creates += put.create
            held = "creates" not in self.breaks if put.create else "matches" not in self.breaks
            if "second winner" in self.breaks and put.create and self.creates == 2:
                held = False
            if "no matches" in self.breaks and put.if_match is not None:
                raise PreconditionFailed("412")
            return self._publish(key, data, put, held)

    def delete(self, key, if_match):
        with self.lock:
            self._call("delete")
            self.objects.pop(key, None)

    def start_upload(self, key, put):
        self._call("start")
        upload = Upload(key, str(next(self.numbers)), put)
        self.uploads[upload.id] = upload
        return upload

    def put_part(self, upload, number, data):
        self._call("part")
        return "tag"

    def finish_upload(self, upload, tags):
        with self.lock:
            self._call("finish")
            if upload.id not in self.uploads:
                raise NotFound("no such upload")
            racing = "racing uploads" in self.breaks and len(self.uploads) < conditions_probe.UPLOADS
            info = self._publish(upload.key, b"", upload.put, not ("uploads" in self.breaks or racing))
            del self.uploads[upload.id]
            return info

    def abort_upload(self, upload):
        self._call("abort")
        self.uploads.pop(upload.id, None)


@pytest.mark.parametrize(
    ("breaks", "kept"),
    [
        ((), (True, True, True)),
        (("creates",), (False, False, False)),
        (("second winner",), (False, False, False)),
        (("matches",), (True, False, True)),
        (("no matches",), (True, False, True)),
        (("uploads",), (True, True, False)),
        (("racing uploads",), (True, True, False)),
        (("matches", "uploads"), (True, False, False)),
    ],
)
def test_a_promise_that_is_broken_is_seen(breaks, kept):
    client = Server(*breaks)
    assert tried(client, "probe")[:3] == kept
    assert (client.objects, client.uploads) == ({}, {})


def steps():
    """How many calls a probe makes."""
    client = Server()
    tried(client, "probe")
    return len(client.calls)


def test_a_probe_is_some_thirty_requests():
    assert steps() <= 30


@pytest.mark.parametrize("step", range(1, steps() + 1))
def test_what_fails_on_the_way_claims_nothing_and_leaves_nothing(step):
    client = Server(fails_at=step, error=PermissionDenied("AccessDenied"))
    try:
        assert tried(client, "probe") == Kept(True, True, True)
        cleaning = True  # what had been found out by then holds
    except PermissionDenied:
        cleaning = False
    assert client.calls[step - 1] in ("abort", "delete") or not cleaning
    if not cleaning:
        assert (client.objects, client.uploads) == ({}, {})


def test_a_conflict_with_another_create_is_a_lost_race_and_a_server_that_cannot_be_reached_is_none():
    client = Server(fails_at=1 + 2 * conditions_probe.UPLOADS)  # the first create
    client.error = BackendUnavailable("ConditionalRequestConflict: again", retry_after=0.0)
    assert tried(client, "probe") == Kept(True, True, True)
    client = Server(fails_at=client.fails_at)
    client.error = BackendUnavailable("EndpointConnectionError: nobody listens", retry_after=0.0)
    with pytest.raises(BackendUnavailable):
        tried(client, "probe")


# -- real servers ------------------------------------------------------------------------------------------------------


def unknown(name, *, endpoint=None, **options):
    """A backend of the server ``name`` that was told nothing of it."""
    info = server(name)
    return S3Backend(
        info["bucket"], f"u{os.getpid()}-{next(_numbers)}", endpoint_url=endpoint or info["endpoint"],
        access_key=info["access_key"], secret_key=Secret(info["secret_key"], pickle=True), **options,
    )  # fmt: skip


def winners(store):
    """How many of sixteen creates of one key at the same time win."""
    won, start, mine = [], threading.Barrier(16), Store(store)

    def run(number):
        start.wait(LIMIT)
        try:
            mine.write("raced", b"%d" % number)
            won.append(number)
        except (AlreadyExists, CapabilityNotSupported):
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    return len(won)


@pytest.mark.parametrize("client", ["sdk", "obstore"])
@pytest.mark.parametrize(
    ("name", "works"), [("seaweedfs", True), ("moto", False), ("rclone_s3", False), ("swift", False)]
)
def test_the_default_write_works_or_is_refused_with_what_was_seen(name, works, client):
    with unknown(name, client=client) as store:
        assert not store.features.create_only
        if works:
            Store(store).write("a", b"x")
            assert store.features.create_only
            with pytest.raises(AlreadyExists):
                Store(store).write("a", b"y")
        else:
            with pytest.raises(CapabilityNotSupported):
                Store(store).write("a", b"x")
            assert store._why
        assert winners(store) == works
        assert [info.path for info in store.list()] == ["a", "raced"][: 2 * works]
        assert not bare(server(name)).list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix).get("Uploads")


def test_what_is_encrypted_is_one_request_too_and_keeps_its_condition():
    """SeaweedFS keeps conditions on single requests alone."""
    with Proxy(server("seaweedfs")["port"]) as proxy, unknown("seaweedfs", endpoint=proxy.url) as store:
        store.learn_features()
        safe, asked = Encrypt(store, b"k" * 32), len(proxy.requests)
        Store(safe).write("a", b"x")
        assert len(proxy.requests) - asked == 1
        with pytest.raises(AlreadyExists):
            Store(safe).write("a", b"y")
        again = Encrypt(store, {"default": b"k" * 32, "new": b"n" * 32}, key_id="new")
        again.reencrypt("a")
        assert Store(again).read_bytes("a") == b"x"


def test_the_default_write_works_on_a_gcs_server_of_which_nothing_was_said():
    info = server("fake_gcs")
    with GCSBackend(info["bucket"], f"u{os.getpid()}", endpoint_url=info["endpoint"], anonymous=True) as store:
        Store(store).write("a", b"x")
        assert [info.path for info in store.list()] == ["a"]
        assert winners(store) == 1


def test_a_server_is_asked_once_and_only_when_somebody_needs_to_know():
    with Proxy(server("rclone_s3")["port"]) as proxy, unknown("rclone_s3", endpoint=proxy.url) as store:
        with store.open_writer("a", WriteOptions()) as writer:
            writer.write(b"x")
        assert len(proxy.requests) == 1
        with pytest.raises(CapabilityNotSupported):
            store.open_writer("b", WriteOptions(overwrite=False))
        asked = len(proxy.requests)
        with pytest.raises(CapabilityNotSupported):
            store.open_writer("b", WriteOptions(overwrite=False))
        assert len(proxy.requests) == asked


def test_who_may_not_delete_writes_nothing():
    with Proxy(server("rclone_s3")["port"]) as proxy, unknown("rclone_s3", endpoint=proxy.url) as store:
        store.client.delete = lambda key, if_match: (_ for _ in ()).throw(PermissionDenied("AccessDenied"))
        with pytest.raises(CapabilityNotSupported, match="AccessDenied"):
            store.open_writer("a", WriteOptions(overwrite=False))
        assert proxy.requests == []


def test_a_bucket_that_is_not_there_and_a_server_that_is_away_are_told_as_such():
    with unknown("moto") as store:
        gone = S3Backend(**{**store._options, "bucket": "no-such-bucket-here"})
        with gone, pytest.raises(NotFound, match="bucket") as caught:
            gone.open_writer("a", WriteOptions(overwrite=False))
        assert caught.value.path == "a"
        once = RequestPolicy(retries=0)
        away = S3Backend(**{**store._options, "endpoint_url": "http://127.0.0.1:9", "policy": once})
        with away, pytest.raises(BackendUnavailable):
            away.open_writer("a", WriteOptions(overwrite=False))


def test_a_sync_to_an_unknown_server_sends_one_request_for_an_object(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}").write_bytes(b"x" * 4096)
    with Proxy(server("seaweedfs")["port"]) as proxy, unknown("seaweedfs", endpoint=proxy.url) as store:
        assert sync(tmp_path, store).copied == 20
        puts = [line for line in proxy.requests if line.startswith("PUT")]
        assert len(puts) == 20
        assert len(proxy.requests) <= 20 + 2  # the listing, and the deletion that tells what the server is


def test_a_name_that_comes_after_the_probe_takes_nothing_back():
    """A second backend of a server takes what the first has found, before it has heard an answer itself."""
    store = S3Backend("bucket", endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b")
    conditions_probe.FOUND[store._unknown] = Kept(True, True, True)
    assert learned(store).create_only
    store._names(SimpleNamespace(headers={"Server": "MinIO"}))
    assert store.features.create_only
    assert store.features.if_match
    assert store.conditional_uploads
    assert store._unknown is None


def test_a_forked_child_asks_for_itself_while_a_thread_of_its_parent_does():
    store = S3Backend("bucket", endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b")
    conditions_probe.FOUND[store._unknown] = Kept(True, True, True)
    store._pid = -1  # as in a child
    with store._learning:
        assert learned(store).create_only


# -- who asks through other layers -------------------------------------------------------------------------------------


class Shy(MemoryBackend):
    """Says only when it is asked that it keeps conditions."""

    def __init__(self):
        super().__init__()
        self.features = replace(self.features, create_only=False, if_match=False)
        self.asked = 0

    def learn_features(self):
        self.asked += 1
        self.features = replace(self.features, create_only=True, if_match=True)
        return self.features


LAYERS = {
    "prefix": lambda shy, tmp: Prefix(shy, "p"),
    "observe": lambda shy, tmp: Observe(Prefix(shy, "p"), lambda event: None),
    "store": lambda shy, tmp: Store(shy).as_backend(),
    "tiers": lambda shy, tmp: TieredBackend([Tier("a", shy), Tier("b", MemoryBackend())]),
    "mirror": lambda shy, tmp: MultiBackend([Target("a", shy), Target("b", MemoryBackend())]),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_has_its_backend_ask(layer, tmp_path):
    shy = Shy()
    outer = LAYERS[layer](shy, tmp_path)
    with outer.open_writer("x", WriteOptions(overwrite=False)) as writer:
        writer.write(b"x")
    with pytest.raises(AlreadyExists), outer.open_writer("x", WriteOptions(overwrite=False)) as writer:
        writer.write(b"y")
    assert learned(outer).create_only


def test_a_layer_that_takes_a_promise_away_does_not_ask():
    shy = Shy()
    with pytest.raises(CapabilityNotSupported):
        ReadOnly(shy).open_writer("x", WriteOptions(overwrite=False))
    assert shy.asked == 0


# -- vendors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "vendor"),
    [
        ("s3.eu-west-1.amazonaws.com", "aws"), ("bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com", "aws"),
        ("s3.cn-north-1.amazonaws.com.cn", "aws"), ("1a2b.r2.cloudflarestorage.com", "r2"),
        ("storage.googleapis.com", "gcs"), ("fra1.digitaloceanspaces.com", "digitalocean"),
        ("s3.us-west-004.backblazeb2.com", "b2"), ("s3.eu-central-1.wasabisys.com", "wasabi"),
        ("127.0.0.1", "other"), ("amazonaws.com.example", "other"), ("evilamazonaws.com", "other"),
    ],
)  # fmt: skip
def test_a_service_is_known_by_its_host_name(host, vendor):
    assert vendor_of_host(host) == vendor
    assert S3Backend("bucket", endpoint_url=f"https://{host}")._vendor == VENDORS[vendor]


@pytest.mark.parametrize(
    ("header", "vendor", "tried_all_the_same"),
    [
        ("SeaweedFS 30GB 4.48", "seaweedfs", False), ("SeaweedFS 30GB 5.01", "seaweedfs", False),
        ("SeaweedFS 30GB 3.97", "seaweedfs", True), ("SeaweedFS", "seaweedfs", True), ("MinIO", "minio", True),
        ("Werkzeug/3.1.9 Python/3.11.7, amazon.com", "moto", False),
    ],
)  # fmt: skip
def test_a_server_is_known_by_its_header_and_believed_where_its_release_was_seen(header, vendor, tried_all_the_same):
    found = vendor_of_server(header)
    assert (found.conditional_writes is None) is tried_all_the_same
    assert replace(found, conditional_writes=None, conditional_copies=False) == replace(
        VENDORS[vendor], conditional_writes=None, conditional_copies=False
    )


def test_a_header_that_names_nobody_is_nobodys():
    assert vendor_of_server("") is vendor_of_server("nginx") is vendor_of_server("AmazonS3") is None


# -- where the server is -----------------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """An environment without AWS, and a configuration to write."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return SimpleNamespace(config=config, set=monkeypatch.setenv)


CONFIG = """
[default]
endpoint_url = http://default:1

[profile own]
services = mine
endpoint_url = http://profile:2

[profile plain]
region = eu-west-1

[profile deaf]
endpoint_url = http://profile:2
ignore_configured_endpoint_urls = true

[services mine]
s3 =
  endpoint_url = http://service:3
"""


def test_the_variables_of_the_sdk_name_the_server(aws):
    assert S3Backend("bucket").endpoint_url is None
    aws.set("AWS_ENDPOINT_URL", "http://all:1")
    assert S3Backend("bucket").endpoint_url == "http://all:1"
    aws.set("AWS_ENDPOINT_URL_S3", "http://s3:2")
    assert open_backend("s3", {"bucket": "bucket"}).endpoint_url == "http://s3:2"
    assert S3Backend("bucket", endpoint_url="http://said:3").endpoint_url == "http://said:3"
    aws.set("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert S3Backend("bucket").endpoint_url is None


@pytest.mark.parametrize(
    ("profile", "endpoint"),
    [(None, "http://default:1"), ("own", "http://service:3"), ("plain", None), ("deaf", None), ("none such", None)],
)
def test_the_profile_names_the_server(aws, profile, endpoint):
    aws.config.write_text(CONFIG)
    assert S3Backend("bucket", profile=profile).endpoint_url == endpoint
    if profile is not None:
        aws.set("AWS_PROFILE", profile)
        assert S3Backend("bucket").endpoint_url == endpoint


def test_a_variable_that_names_no_server_is_refused(aws):
    aws.set("AWS_ENDPOINT_URL", "nowhere")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        S3Backend("bucket")


def test_objects_are_where_the_variable_says(aws):
    info = server("moto")
    aws.set("AWS_ENDPOINT_URL", info["endpoint"])
    with S3Backend(info["bucket"], f"u{os.getpid()}-env", access_key="a", secret_key="b") as store:
        with store.open_writer("x") as writer:
            writer.write(b"here")
        assert [info.path for info in store.list()] == ["x"]


@pytest.mark.parametrize("value", ["auto", "true", "false"])
def test_a_url_says_what_is_known_of_conditions(value):
    store = open_backend(f"s3://bucket/?endpoint_url=http://127.0.0.1:9&conditional_writes={value}")
    assert store._options["conditional_writes"] == {"auto": "auto", "true": True, "false": False}[value]
    with pytest.raises(ConfigError):
        open_backend("s3://bucket/?conditional_writes=perhaps")
