"""Secrets never show; configuration is frozen, checked when it is read, and prints masked."""

import copy
import inspect
import io
import json
import logging
import pickle
import re
import sys
import traceback

import pytest

from omnistorage import (
    BackendConfig,
    ConfigError,
    LocalBackend,
    MemoryBackend,
    RegistryConfig,
    Secret,
    StoreProfile,
    open_backend,
    open_records,
    register_backend,
)
from omnistorage.config import backend_names, backends_from_toml, check_options, locate
from omnistorage.config import models as config_module
from omnistorage.config.models import expand
from omnistorage.core import secret as secret_module
from omnistorage.core.secret import mask, mask_url, reveal, url_holds_secret

CANARY = "c4n4ry-DO-NOT-SHOW"


class Vault(MemoryBackend):
    """A backend whose options are full of secrets."""

    def __init__(
        self,
        password: str = "",
        headers: dict | None = None,
        url: str = "",
        client_options: dict | None = None,
        port: int = 0,
        ratio: float = 0.0,
        tls: bool = False,
        token: Secret | None = None,
    ) -> None:
        super().__init__()
        self.given = (password, headers, url, client_options, port, ratio, tls, token)

    @classmethod
    def options_from_url(cls, parts, *, is_object):
        return {"url": f"{parts.netloc}"}, parts.path.lstrip("/")


register_backend("vault-for-tests", Vault)


def secretive_configs():
    options = {
        "password": CANARY,
        "headers": {"Authorization": f"Bearer {CANARY}", "X-Api-Key": CANARY},
        "url": f"https://user:{CANARY}@host/path?sig={CANARY}&x=1",
        "client_options": {"nested": [{"account_key": CANARY}, {"sas_token": CANARY}]},
        "token": Secret(CANARY, pickle=True),
    }
    vault = BackendConfig("vault-for-tests", options)
    return [vault, RegistryConfig({"vault": vault}, {"s": StoreProfile("vault")}), StoreProfile("vault")]


def test_goal_41_no_channel_shows_a_secret():
    """repr, str, format, log, traceback, exception chain, JSON by default=str, and the pickle of a reference."""
    classes = {
        cls
        for module in (config_module, secret_module)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__
    }
    shown = [*secretive_configs(), Secret(CANARY), Secret(CANARY, pickle=True)]
    assert {type(value) for value in shown} == classes, "a configuration class without a canary"
    for value in shown:
        stream = io.StringIO()
        logger = logging.Logger("canary", logging.DEBUG)
        logger.addHandler(logging.StreamHandler(stream))
        logger.debug("%s %r", value, value)
        try:
            try:
                raise ValueError(value)
            except ValueError as error:
                raise ConfigError(f"with {value}") from error
        except ConfigError:
            text = traceback.format_exc()
        channels = [repr(value), str(value), f"{value}", f"{value!s:>40}", stream.getvalue(), text]
        channels.append(json.dumps({"value": value}, default=str))
        channels.append(repr([value]) + repr({"k": value}))
        for channel in channels:
            assert CANARY not in channel, channel


def test_goal_41_errors_about_a_configuration_show_no_secret():
    for call in (
        lambda: open_backend(f"vault-for-tests://user:{CANARY}@host/object?nope=1"),
        lambda: open_backend(f"nothing://user:{CANARY}@host/?sig={CANARY}"),
        lambda: open_backend(f"vault-for-tests://user:{CANARY}@host/#x"),
        lambda: locate(f"vault-for-tests://user:{CANARY}@host"),
        lambda: BackendConfig("vault-for-tests", {"passwort": CANARY}),
        lambda: BackendConfig.from_dict({"type": "vault-for-tests", "options": {"password": CANARY, "bad": 1}}),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{CANARY}@host/p",
        f"https://user:p@{CANARY}@host/p",
        f"https://user:{CANARY}@ss:w@rd@host/p",
        f"https://{CANARY}@host/p",
        f"https://:{CANARY}@host/p",
        f"s3:///user:{CANARY}@host/p",
        f"s3:////user:{CANARY}@host/p",
        f"https://user:{CANARY}?#@host",
        *(
            f"https://host/p?x=1{mark}{key}={CANARY}{tail}"
            for mark in "&;#"
            for tail in ("", "&y=2", "#f")
            for key in (
                "secret_access_key", "access_token", "sas_token", "account_key", "X-Amz-Security-Token", "sig",
                "X-Amz-Signature", "api_key", "password", "SIGNATURE", "key", "client_secret", "pass%77ord",
            )
        ),
        f"postgresql://user:a/{CANARY}@host/d",
        f"postgresql://user:a {CANARY}@host/d",
        f"mysql+pymysql://root:C@a/{CANARY}@127.0.0.1:1/d",
        f"http://user:a/{CANARY}@proxy:1",
        f"unknown://user:a/b c/{CANARY}@host",
        f"https://host/p?password=a;{CANARY}&x=1",
        f"https://host/p?password=a#{CANARY}",
    ],
)  # fmt: skip
def test_goal_41_mask_url_leaves_no_secret_in_any_place_of_a_url(url):
    assert CANARY not in mask_url(url)
    assert CANARY not in mask_url(f"before {url} after")
    assert mask_url(f"before {url} after").endswith(" after")
    assert mask_url(mask_url(url)) == mask_url(url)
    assert url_holds_secret(url) is not url.startswith("s3:///")  # where this is a key
    for call in (open_backend, locate):
        with pytest.raises(ConfigError) as caught:
            call(re.sub("^[a-z0-9+]+:", "nobodys:", url))
        assert CANARY not in str(caught.value)
        try:
            shown = repr(call(url))
        except ConfigError as error:
            shown = str(error)
        assert CANARY not in shown


@pytest.mark.parametrize(
    "text",
    [
        f"sftp://a:{CANARY}@h/x to sftp://b:{CANARY}@k/y: failed",
        f"host=db user=u password={CANARY} dbname=x",
        f"password='a b {CANARY}'",
        f"Server=x;Uid=u;Pwd={CANARY};",
        f'{{"password": "a b {CANARY}"}}',
        f"{{'secret_key': '{CANARY}'}}",
        f"Authorization: Bearer {CANARY}",
        f"Authorization: {CANARY}",
        f"sent with bearer {CANARY}",
    ],
)
def test_goal_41_mask_url_leaves_no_secret_in_what_drivers_say(text):
    assert CANARY not in mask_url(text)
    assert CANARY not in mask_url(f"before {text} after")
    assert mask_url(mask_url(text)) == mask_url(text)


@pytest.mark.parametrize("size", [1_000, 100_000])
@pytest.mark.parametrize("head", ["", ":", "s3://", "secret", "password=", "bearer", "authorization:"])
@pytest.mark.parametrize(
    "part", ["a", "://", "@", ":/", 'password="', "bearer ", "authorization: ", "://a:", "?key=", "/", "token", " "]
)
def test_mask_url_takes_linear_time(head, part, size):
    """By the square, these would take minutes."""
    mask_url(head + part * size)


@pytest.mark.parametrize("call", [open_backend, locate])
def test_goal_41_a_wrong_file_url_shows_no_password(call):
    for url in (f"file://user:{CANARY}@host/p", f"file://{CANARY}@host/p", f"file://user:{CANARY}@h/p?nope=1"):
        with pytest.raises(ConfigError, match="three slashes") as caught:
            call(url)
        assert CANARY not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        call(f"vault-for-tests:///user:{CANARY}@host/p?nope=1")
    assert CANARY not in str(caught.value)


def test_mask_url_leaves_what_is_no_secret():
    for url in ("https://host/a@b", "file:///home/a@b/c", "https://host/p?x=1&monkey=2&page=3#top", "a@b", "x=1"):
        assert mask_url(url) == url
    assert mask_url("?a=b" * 5000 + f"&token={CANARY}") == "?a=b" * 5000 + "&token=***"


@pytest.mark.parametrize(
    "call",
    [
        lambda: open_backend("local", {"root": 5}),
        lambda: open_backend("local", {"root": None}),
        lambda: open_backend("local", 5),
        lambda: open_backend("local", {"root": "/tmp/\ud800"}),
        lambda: LocalBackend("/tmp/\ud800"),
        lambda: LocalBackend(b"/tmp"),
        lambda: open_backend(None),
        lambda: open_backend(5),
        lambda: open_backend(b"local"),
        lambda: locate(None),
        lambda: locate(b"x"),
        lambda: open_records(None),
    ],
)
def test_what_is_no_place_is_a_config_error(call):
    with pytest.raises(ConfigError):
        call()


def test_a_literal_secret_refuses_to_pickle_and_a_reference_travels_as_itself(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"Secret\.env"):
        pickle.dumps(Secret(CANARY))
    assert pickle.loads(pickle.dumps(Secret(CANARY, pickle=True))).reveal() == CANARY
    monkeypatch.setenv("TEST_SECRET", CANARY)
    (tmp_path / "s").write_text(CANARY + "\n")
    for reference in (
        Secret.env("TEST_SECRET"),
        Secret.file(str(tmp_path / "s")),
        Secret.command([sys.executable, "-c", f"print({CANARY!r})"]),
    ):
        raw = pickle.dumps(reference)
        if reference != Secret.command([sys.executable, "-c", f"print({CANARY!r})"]):
            assert CANARY.encode() not in raw
        twin = pickle.loads(raw)
        assert twin == reference
        assert hash(twin) == hash(reference)
        assert twin.reveal() == CANARY
        assert reveal(twin) == CANARY
    assert reveal("plain") == "plain"
    assert reveal(None) is None
    assert copy.deepcopy(Secret.env("X")) == Secret.env("X")


@pytest.mark.parametrize(
    ("secret", "word"),
    [
        (Secret.env("NO_SUCH_VARIABLE_HERE"), "NO_SUCH_VARIABLE_HERE"),
        (Secret.file("/no/such/file"), "/no/such/file"),
        (Secret.command(["/no/such/program"]), "/no/such/program"),
        (Secret.command([sys.executable, "-c", f"import sys; print('{CANARY}'); sys.exit(3)"]), "exit code 3"),
    ],
)
def test_a_reference_that_leads_nowhere_names_itself_and_no_value(secret, word):
    with pytest.raises(ConfigError, match=word) as caught:
        secret.reveal()
    assert CANARY not in str(caught.value)


def test_wrong_secrets_are_refused():
    with pytest.raises(ConfigError):
        Secret(5)
    with pytest.raises(ConfigError, match="list of words"):
        Secret.command("cat /etc/passwd")


def test_mask_hides_by_key_and_in_urls_and_leaves_the_rest():
    masked = mask({"a": 1, "password": "x", "nested": [{"api_key": "y", "ok": "z"}], "use_token": True})
    assert masked == {"a": 1, "password": "***", "nested": [{"api_key": "***", "ok": "z"}], "use_token": True}
    assert mask_url("sftp://me:pw@host/p?signature=abc&x=1") == "sftp://me:***@host/p?signature=***&x=1"
    assert mask_url("https://host/a:b@c") == "https://host/a:b@c"


# --- configuration ----------------------------------------------------------------------------------------------------


PLAIN = {
    "sftp": [{"host": "h", "password": CANARY}, {"host": "h", "key": CANARY}],
    "http": [{"root": "http://h/", "token": CANARY}, {"root": "http://h/", "headers": {"X-Vault": CANARY}},
             {"root": "http://h/", "proxy": f"http://u:{CANARY}@p:1"}],
    "s3": [{"bucket": "b", "secret_key": CANARY}],
    "sql": [{"url": f"postgresql://u:{CANARY}@h/d"}, {"url": f"postgresql://u@h/d?password={CANARY}"}],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), [(kind, one) for kind, each in PLAIN.items() for one in each])
def test_goal_41_a_configuration_with_a_plain_secret_neither_pickles_nor_shows_it(kind, options):
    config = BackendConfig(kind, options)
    for one in (config, RegistryConfig({"x": config})):
        with pytest.raises(ConfigError) as caught:
            pickle.dumps(one)
        assert CANARY not in str(caught.value)
        assert CANARY not in repr(one)


def test_a_configuration_whose_secrets_are_references_pickles():
    options = {
        "root": "http://h/",
        "token": Secret.env("TOKEN"),
        "headers": {"X-Vault": Secret.file("/x")},
        "user": "me",
    }
    for one in (BackendConfig("http", options), BackendConfig("sftp", {"host": "h", "password": "${PASSWORD}"})):
        assert pickle.loads(pickle.dumps(one)) == one


def test_a_config_is_frozen_comparable_and_pickles():
    one = BackendConfig("memory", {"dirs": False})
    assert one == BackendConfig("memory", {"dirs": False}) == pickle.loads(pickle.dumps(one))
    assert one != BackendConfig("memory")
    assert hash(one) == hash(BackendConfig("memory", {"dirs": False}))
    for change in (lambda: setattr(one, "type", "x"), lambda: one.options.update(x=1)):
        with pytest.raises(Exception):
            change()


def test_a_config_does_not_share_the_callers_dict():
    options = {"dirs": False}
    made = BackendConfig("memory", options)
    options["nonsense"] = 1
    assert dict(made.options) == {"dirs": False}


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ({"typ": "memory"}, "did you mean 'type'"),
        ({"options": {}}, "'type' is missing"),
        ({"type": "memroy"}, "did you mean 'memory'"),
        ({"type": "local", "options": {"rot": "/x"}}, "did you mean 'root'"),
        ({"type": "local"}, "needs the option 'root'"),
        ({"type": "local", "options": []}, "are a table"),
        ({"type": 5}, "is a name"),
        ({"type": "memory", "option": {}}, "did you mean 'options'"),
        ("memory", "a table"),
    ],
)
def test_go_f13_a_mistake_is_found_when_the_config_is_read(data, hint):
    with pytest.raises(ConfigError, match=hint) as caught:
        BackendConfig.from_dict(data, where="here")
    assert "here" in str(caught.value)


def test_toml_files_give_backends_by_name(tmp_path, monkeypatch):
    path = tmp_path / "c.toml"
    path.write_text('[backends.a]\ntype = "local"\n[backends.a.options]\nroot = "${BASE}/x${TAIL:-y}"\n')
    with pytest.raises(ConfigError, match=r"backends\.a\.options\.root.*'BASE'"):
        backends_from_toml(path, env=True)
    monkeypatch.setenv("BASE", "/data")
    assert BackendConfig.from_toml(path, env=True).options["root"] == "/data/xy"
    assert BackendConfig.from_toml(path).options["root"] == "${BASE}/x${TAIL:-y}"
    path.write_text('[tool.omnistorage.backends.m]\ntype = "memory"\n[tool.omnistorage.backends.n]\ntype = "memory"\n')
    assert sorted(backends_from_toml(path)) == ["m", "n"]
    assert BackendConfig.from_toml(path, "m").type == "memory"
    with pytest.raises(ConfigError, match="did you mean 'm'"):
        BackendConfig.from_toml(path, "mm")
    with pytest.raises(ConfigError, match="name one of"):
        BackendConfig.from_toml(path)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[backend.a]\n", "did you mean 'backends'"),
        ("[backends]\na = 5\n", "a table with type"),
        ("backends = 5\n", "table of tables"),
        ("not toml", "c.toml"),
    ],
)
def test_a_bad_toml_file_says_where(tmp_path, text, hint):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=hint) as caught:
        backends_from_toml(path)
    assert "c.toml" in str(caught.value)


def test_a_missing_toml_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="no such"):
        backends_from_toml(tmp_path / "none.toml")


def test_expand_reaches_every_string(monkeypatch):
    monkeypatch.setenv("V", "1")
    assert expand({"a": ["${V}", {"b": "x${W:-}y"}], "c": 5}, "top") == {"a": ["1", {"b": "xy"}], "c": 5}


# --- the registry -----------------------------------------------------------------------------------------------------


def test_three_ways_to_say_the_same_backend(tmp_path):
    made = [
        open_backend("file", {"root": str(tmp_path)}),
        open_backend("local", {"root": str(tmp_path)}),
        open_backend(BackendConfig("file", {"root": str(tmp_path)})),
        open_backend(tmp_path.as_uri()),
        open_backend(tmp_path),
    ]
    assert {type(backend) for backend in made} == {LocalBackend}
    assert len({backend.url for backend in made}) == 1


def test_urls_bring_typed_options():
    backend = open_backend("vault-for-tests://h?port=5&ratio=0.5&tls=true&password=p")
    assert backend.given[4:7] == (5, 0.5, True)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("memroy", "did you mean 'memory'"),
        ("s4://bucket", "unknown backend 's4'"),
        ("memory://x", "cannot be opened by URL"),
        ("vault-for-tests://h?prt=5", "did you mean 'port'"),
        ("vault-for-tests://h?port=five", "is a number"),
        ("vault-for-tests://h?tls=maybe", "true or false"),
        ("vault-for-tests://h?port=1&port=2", "twice"),
        ("vault-for-tests://h/inside", "names an object inside"),
        ("file://host/path", "three slashes"),
        ("file:///a#b", "%23"),
        ("http://[bad", "not a URL"),
    ],
)
def test_unknown_names_and_options_are_errors_with_the_nearest_right_spelling(spec, hint):
    with pytest.raises(ConfigError, match=hint):
        open_backend(spec)


@pytest.mark.parametrize(
    "url",
    ["s3://b//x", "s3://b/x//", "s3://b/x//y", "s3://b/%2Fx", "gs://b//x", "az://b//x?account_name=a"],
)  # fmt: skip
def test_a_url_with_an_empty_segment_is_refused(url):
    with pytest.raises(ConfigError):
        open_backend(url)


@pytest.mark.parametrize("name", ["s3", "gcs", "azure"])
def test_a_prefix_has_at_most_one_slash_at_its_end(name):
    place = {"container": "b", "account_name": "a"} if name == "azure" else {"bucket": "b"}
    assert open_backend(name, {**place, "prefix": "x/"}).url == open_backend(name, {**place, "prefix": "x"}).url
    for prefix in ("/x", "x//", "x//y", "/"):
        with pytest.raises(ConfigError):
            open_backend(name, {**place, "prefix": prefix})


def test_an_http_root_keeps_its_empty_segments():
    for url in ("http://h//x/", "http://h/x//y/", "http://h/x//"):
        assert open_backend(url).url == url


def test_options_stand_in_one_place(tmp_path):
    with pytest.raises(ConfigError):
        open_backend(tmp_path.as_uri(), {"root": "/x"})
    with pytest.raises(ConfigError):
        open_backend(BackendConfig("memory"), {"dirs": False})


def test_locate_splits_a_path_into_folder_and_object(tmp_path):
    backend, path = locate(tmp_path / "sub/a b.ndjson")
    assert (backend.root, path) == (str(tmp_path / "sub"), "a b.ndjson")
    backend, path = locate((tmp_path / "sub/ä").as_uri())
    assert (backend.root, path) == (str(tmp_path / "sub"), "ä")
    backend, path = locate(str(tmp_path) + "/", is_object=False)
    assert (backend.root, path) == (str(tmp_path), "")
    for wrong in (str(tmp_path) + "/", "/", "", "a\0b"):
        with pytest.raises(ConfigError):
            locate(wrong)


def test_a_name_is_registered_once():
    register_backend("vault-for-tests", Vault)
    with pytest.raises(ConfigError, match="taken"):
        register_backend("memory", Vault)
    assert {"file", "local", "memory", "vault-for-tests"} <= set(backend_names())
    check_options("memory", {"dirs": True})


def test_an_entry_point_is_found_by_name(tmp_path, monkeypatch):
    package = tmp_path / "third_party_backend"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from omnistorage.backends.memory import MemoryBackend\nclass Theirs(MemoryBackend):\n    name = 'theirs'\n"
    )
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[omnistorage.backends]\ntheirs = third_party_backend:Theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from omnistorage.config import backend_options
    from omnistorage.core.plugin_table import Table

    monkeypatch.setattr(backend_options, "_TABLE", Table("backend", "omnistorage.backends", {}))
    assert open_backend("theirs").name == "theirs"
