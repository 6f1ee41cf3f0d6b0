"""A URL that somebody else chose lowers no protection, names no secret of this machine, and with ``untrusted`` leads to
public addresses of http and https alone."""

from __future__ import annotations

import inspect

import pytest

import omnistorage
from omnistorage import ConfigError, PermissionDenied, open_backend, open_records, open_store
from omnistorage.config import backend_class, backend_names, locate

ELSEWHERE = ["/etc/passwd", "x.ndjson", "file:///etc/passwd", "sqlite:///x.db?a", "s3://bucket/x.ndjson",
             "sftp://host/x.ndjson", "FILE:///x", "postgresql://host/db", "memory://x/y"]  # fmt: skip
PRIVATE = ["http://127.0.0.1:1/x.ndjson", "HTTP://[::1]:1/x.ndjson", "http://169.254.169.254/x.ndjson",
           "https://192.0.0.192/x.ndjson", "http://2130706433/x.ndjson"]  # fmt: skip
OPENED = {
    "open_records": lambda target: open_records(target, untrusted=True),
    "open": lambda target: omnistorage.open(target, untrusted=True),
    "open_store": lambda target: open_store(target, untrusted=True),
}


@pytest.mark.parametrize("how", OPENED)
@pytest.mark.parametrize("target", ELSEWHERE)
def test_untrusted_takes_no_other_text_than_http_and_https(how, target):
    with pytest.raises(ConfigError):
        OPENED[how](target)


@pytest.mark.parametrize("how", ["open_records", "open"])
@pytest.mark.parametrize("target", PRIVATE)
def test_untrusted_connects_to_no_private_address(how, target):
    with pytest.raises(PermissionDenied):
        OPENED[how](target)


def test_an_untrusted_store_connects_to_no_private_address():
    with open_store("http://127.0.0.1:1/", untrusted=True) as store, pytest.raises(PermissionDenied):
        store.read_bytes("x")


def test_a_path_object_is_the_programmers_own(tmp_path):
    path = tmp_path / "x.ndjson"
    path.write_bytes(b'{"n": 1}\n')
    with open_records(path, untrusted=True) as reader:
        assert list(reader) == [{"n": 1}]
    with omnistorage.open(path, "rt", untrusted=True) as file:
        assert file.read() == '{"n": 1}\n'
    with open_store(tmp_path, untrusted=True) as store:
        assert store.exists("x.ndjson")
        with pytest.raises(ConfigError):
            store.open("y", "wb", untrusted=True)


URLS = {
    "https": "https://host/x/#{}=1", "sftp": "sftp://host/x?{}=1", "s3": "s3://bucket/x?{}=1", "gs": "gs://bucket/x?{}=1",
    "az": "az://box/x?account_name=me&{}=1",
}  # fmt: skip
PROTECTED = [(scheme, option) for scheme in URLS for option in sorted(backend_class(scheme).not_from_urls)]


@pytest.mark.parametrize(("scheme", "option"), PROTECTED)
def test_an_option_that_protects_is_not_taken_from_a_url(scheme, option):
    url = URLS[scheme].format(option)
    for run in (
        open_backend,
        locate,
        open_store,
        lambda url: open_records(url.replace("/x", "/x.ndjson").replace("/#", "#")),
    ):
        with pytest.raises(ConfigError) as caught:
            run(url)
        assert option in str(caught.value)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    "url",
    [
        "https://host/#resolver=x", "https://host/#policy=x", "https://host/#headers=x", "https://host/#_dial=x",
        "sftp://host/x?policy=x", "s3://bucket/x?policy=x", "sqlite:///x.db?columns=x", "file:///x?_os=x",
    ],
)  # fmt: skip
def test_an_option_that_no_text_can_be_is_not_taken_from_a_url(url, trusted):
    with pytest.raises(ConfigError):
        open_backend(url, trusted_url=trusted)


def test_a_resolver_in_a_strangers_url_is_an_error_before_any_request():
    for run in (lambda url: open_store(url, untrusted=True), lambda url: open_records(url, untrusted=True)):
        with pytest.raises(ConfigError):
            run("http://127.0.0.1:1/a.ndjson#resolver=x")


def test_what_protects_is_an_option_and_all_that_may_name_a_file_is_held_back():
    """A new option of this kind is to be listed, too."""
    for name in backend_names():
        cls = backend_class(name)
        if not hasattr(cls, "options_from_url"):
            continue
        options = set(inspect.signature(cls).parameters)
        assert cls.not_from_urls <= options
        suspects = {one for one in options if one.endswith("_file") or one in ("verify", "proxy", "profile", "agent")}
        assert suspects <= cls.not_from_urls, name


def test_the_caller_may_trust_a_url_and_may_force_an_option():
    assert open_backend("https://host/#max_redirects=9", trusted_url=True)._options["max_redirects"] == 9
    url = "http://127.0.0.1:1/x#untrusted=false&read_timeout=5"
    backend, path = locate(
        url,
        trusted_url=True,
        defaults={"read_timeout": 7.0, "connections": 2},
        forced={"untrusted": True, "policy": None},
    )
    given = backend._options
    assert (given["untrusted"], given["read_timeout"], given["connections"], path) == (True, 5.0, 2, "x")
    assert open_backend("memory", forced={"untrusted": True}).name == "memory"


MOVED = [
    "file:///data/x?root=/etc", "http://good.example/d/x#root=http://other.example/", "s3://good/x?bucket=other",
    "s3://good/x?prefix=other", "gs://good/x?bucket=other", "gs://good/x?prefix=other",
    "az://good/x?container=other&account_name=a&anonymous=true", "abfss://good@a.dfs.core.windows.net/x?account_name=other",
    "sftp://me@good/x?host=other", "sftp://me@good/x?root=/etc", "sftp://me@good/x?user=root", "sftp://good:22/x?port=23",
    "sqlite:///a.db?url=sqlite:///b.db#t/x", "sqlite:///a.db?table_name=other#t/x", "https://u:p@good/x#password=q",
]  # fmt: skip


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("url", MOVED)
def test_no_option_of_a_url_leads_elsewhere_than_the_url_says(url, trusted):
    for is_object in (True, False):
        with pytest.raises(ConfigError):
            locate(url, is_object=is_object, trusted_url=trusted)


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("s3://good?prefix=logs", "s3://good/logs"), ("gs://good?prefix=logs", "gs://good/logs"),
        ("az://good?prefix=logs&account_name=a", "az://good/logs?account_name=a"),
        ("sftp://good?root=/abs", "sftp://good/abs"), ("file:///?root=/x", "file:///x"),
    ],
)  # fmt: skip
def test_a_folder_of_a_url_is_written_into_its_path(url, right):
    with pytest.raises(ConfigError):
        open_backend(url)
    open_backend(right)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("abfss://good@a.dfs.core.windows.net/x?endpoint_suffix=core.windows.net", "abfss://good@a.dfs.core.windows.net/x"),
        ("s3://good/logs?prefix=logs", "s3://good/logs"), ("sftp://good:22/x?port=22", "sftp://good:22/x"),
        ("file:///x?root=/x", "file:///x"), ("http://good/x/#root=http://good/x/", "http://good/x/"),
    ],
)  # fmt: skip
def test_an_option_may_say_what_the_rest_of_a_url_says(url, plain):
    assert open_backend(url).url == open_backend(plain).url


def test_a_folder_said_twice_is_no_folder_in_a_folder():
    with pytest.raises(ConfigError):
        locate("s3://good/logs?prefix=logs")


@pytest.mark.parametrize("option", ["read_timeout=1e9", "connect_timeout=1e9", "connections=100000"])
def test_a_strangers_url_does_not_lift_the_bounds_of_requests(option):
    url = f"http://good.example/x.ndjson#{option}"
    for run in OPENED.values():
        with pytest.raises(ConfigError):
            run(url)
    assert locate(url)[1] == "x.ndjson"
