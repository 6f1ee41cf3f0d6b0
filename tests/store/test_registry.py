"""Configuration as data, and the registry that makes stores of it."""

import errno
import json
import pickle
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnistorage import (
    BackendClosed,
    BackendConfig,
    CapabilityNotSupported,
    ConfigError,
    MemoryBackend,
    MissingExtra,
    NotFound,
    Registry,
    RegistryConfig,
    Secret,
    Store,
    StoreProfile,
    open_store,
    register_backend,
)
from omnistorage.backends.local import LocalBackend
from omnistorage.config.models import tables_of

DATA = {
    "backends": {"disk": {"type": "local", "options": {"root": "ROOT"}}, "ram": {"type": "memory"}},
    "stores": {
        "raw": {"backend": "disk", "root_path": "lake/raw"},
        "seen": {"backend": "disk", "root_path": "lake", "options": {"read_only": True}},
        "scratch": {"backend": "ram"},
    },
}
TOML = """
[backends.disk]
type = "local"
options = { root = "ROOT" }
[backends.ram]
type = "memory"
[stores.raw]
backend = "disk"
root_path = "lake/raw"
[stores.seen]
backend = "disk"
root_path = "lake"
options = { read_only = true }
[stores.scratch]
backend = "ram"
"""
YAML = """
backends:
  disk: {type: local, options: {root: ROOT}}
  ram: {type: memory}
stores:
  raw: {backend: disk, root_path: lake/raw}
  seen: {backend: disk, root_path: lake, options: {read_only: true}}
  scratch: {backend: ram}
"""


def data(root):
    return json.loads(json.dumps(DATA).replace("ROOT", str(root)))


class Counted(MemoryBackend):
    made = 0

    def __init__(self):
        type(self).made += 1
        time.sleep(0)  # give the other threads their turn
        super().__init__()


class Networked(MemoryBackend):
    def __init__(self, port: int = 0, secure: bool = False, factor: float | None = None, policy: object = None):
        super().__init__()
        self.port, self.secure, self.factor, self.policy = port, secure, factor, policy


register_backend("counted-for-tests", Counted)
register_backend("networked-for-tests", Networked)


def test_dicts_toml_json_and_yaml_say_the_same(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "c.toml").write_text(TOML)
    (tmp_path / "c.json").write_text(json.dumps(DATA))
    (tmp_path / "c.yaml").write_text(YAML)
    (tmp_path / "p.toml").write_text(
        "[tool.other]\nx = 1\n" + TOML.replace("[backends", "[tool.omnistorage.backends").replace(
            "[stores", "[tool.omnistorage.stores")
    )  # fmt: skip
    wanted = RegistryConfig.from_dict(DATA)
    for found in (
        RegistryConfig.from_toml(tmp_path / "c.toml"), RegistryConfig.from_json(tmp_path / "c.json"),
        RegistryConfig.from_yaml(tmp_path / "c.yaml"), RegistryConfig.from_toml(tmp_path / "p.toml"),
        RegistryConfig(
            {"disk": BackendConfig("local", {"root": "ROOT"}), "ram": BackendConfig("memory")},
            {
                "raw": StoreProfile("disk", "lake/raw"), "seen": StoreProfile("disk", "lake", {"read_only": True}),
                "scratch": StoreProfile("ram"),
            },
        ),
        pickle.loads(pickle.dumps(wanted)),
    ):  # fmt: skip
        assert found == wanted
        assert hash(found) == hash(wanted)


def test_stores_by_name(tmp_path):
    with Registry(data(tmp_path)) as registry:
        assert registry.names == ("raw", "scratch", "seen")
        raw = registry.get_store("raw")
        raw.write("a", b"1")
        assert (tmp_path / "lake/raw/a").read_bytes() == b"1"
        assert registry.get_store("raw") is raw
        seen = registry.get_store("seen")
        assert seen.read_bytes("raw/a") == b"1"
        with pytest.raises(CapabilityNotSupported):
            seen.write("raw/b", b"1")
        raw.close()  # owns nothing
        assert raw.exists("a")
    for late in (lambda: registry.get_store("raw"), lambda: registry.get_store("scratch"), lambda: raw.exists("a")):
        with pytest.raises(BackendClosed):
            late()
    registry.close()


def test_rs_7_2_threads_get_one_backend_and_one_store():
    Counted.made = 0
    config = {"backends": {"c": {"type": "counted-for-tests"}}, "stores": {"s": {"backend": "c"}}}
    with Registry(config) as registry, ThreadPoolExecutor(8) as pool:
        assert Counted.made == 0
        stores = list(pool.map(lambda _: registry.get_store("s"), range(64)))
    assert Counted.made == 1
    assert len({id(store) for store in stores}) == 1


def test_a_registry_starts_no_thread(tmp_path):
    before = threading.active_count()
    with Registry(data(tmp_path)) as registry:
        registry.get_store("raw").exists("x")
        assert threading.active_count() == before


def test_every_backend_is_closed_even_if_one_cannot_be():
    class Stuck(MemoryBackend):
        def close(self):
            raise NotFound("stuck")

    registry = Registry(data("/tmp"))
    ram = registry.get_backend("ram")
    registry._made = {"a": Stuck(), **registry._made}
    with pytest.raises(NotFound, match="stuck"):
        registry.close()
    with pytest.raises(BackendClosed):
        ram.exists("x")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"backend": {}}, "unknown key 'backend'.*'backends'"),
        ({"backends": {"a": {"type": "lokal"}}}, "backends.a: .*'lokal'.*'local'"),
        ({"backends": {"a": {"type": "local", "options": {"rot": "/x"}}}}, "backends.a: .*'rot'.*'root'"),
        ({"backends": {"a": {"type": "local", "options": {"root": 5}}}}, "backends.a: .*'root'.*not int"),
        ({"backends": {"a": {"type": "networked-for-tests", "options": {"port": "80"}}}}, "'port'.*is int, not str"),
        ({"backends": {"a": {"type": "networked-for-tests", "options": {"port": True}}}}, "'port'.*is int, not bool"),
        ({"backends": {"a": {"type": "networked-for-tests", "options": {"secure": "no"}}}}, "'secure'.*is bool"),
        ({"backends": {"a": {"option": {}}}}, "backends.a: unknown key 'option'.*'options'"),
        ({"backends": {"a": {}}}, "backends.a: the key 'type' is missing"),
        ({"backends": {"a": "local"}}, "backends.a: a table"),
        ({"backends": []}, "'backends' is a table of tables"),
        ({"stores": {"s": {"backend": "disk"}}}, "stores.s: there is no backend 'disk'"),
        ({"stores": {"s": {"bakend": "disk"}}}, "stores.s: unknown key 'bakend'.*'backend'"),
        ({"stores": {"s": {}}}, "stores.s: the key 'backend' is missing"),
        ({"stores": {"s": {"backend": 5}}}, "stores.s: backend of a store is text"),
        ({"stores": {"s": {"backend": "x", "options": {"readonly": True}}}}, "stores.s: .*'readonly'.*'read_only'"),
        ({"stores": {"s": {"backend": "x", "options": {"read_only": "yes"}}}}, "stores.s: read_only is true or false"),
        ({"backends": {"a": {"type": "memory", "retry": {"retries": 3}}}}, "sends no requests"),
        ({"backends": {"a": {"type": "networked-for-tests", "retry": {"retrys": 3}}}}, "'retrys'.*'retries'"),
        ({"backends": {"a": {"type": "networked-for-tests", "retry": {"retries": -1}}}}, "retries counts from 0"),
        ({"backends": {"a": {"type": "networked-for-tests", "retry": {"base": float("nan")}}}}, "base counts from 0"),
        ({"stores": {"s": {"backend": "x", "root_path": "../x"}}}, "stores.s: root_path '../x'"),
        ({"stores": {"s": {"backend": "x", "root_path": "a//x"}}}, "stores.s: root_path 'a//x'"),
        ({"stores": {"s": {"backend": "x", "options": {"read_only": "true"}}}}, "read_only is true or false"),
        ({"stores": {1: {"backend": "x"}}}, "a name is text, not 1"),
    ],
)  # fmt: skip
def test_go_f13_rs_7_7_mistakes_are_found_when_the_config_is_read_and_say_where(wrong, told):
    with pytest.raises(ConfigError, match=told):
        RegistryConfig.from_dict(wrong)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tool.ruff]\nx = 1\n[backends.m]\ntype = 'memory'", None),
        ("[tool.omnistorage.backends.m]\ntype = 'memory'\n[project]\nname = 'p'", None),
        ("[project]\nname = 'p'\n[tool.omnistorge.backends.m]\ntype = 'memory'", "no table .tool.omnistorage."),
        ("[backends.m]\ntype = 'memory'\n[tool.omnistorage]", "choose one"),
        ("tool = 1\n[backends.m]\ntype = 'memory'", None),
        ("[tool.omnistorge.backends.m]\ntype = 'memory'", "no table .tool.omnistorage."),
        ("[omnistorage.backends.m]\ntype = 'memory'", "unknown key 'omnistorage'"),
    ],
)
def test_a_toml_file_says_once_where_the_config_is(tmp_path, text, told):
    (tmp_path / "c.toml").write_text(text)
    if told is None:
        assert list(RegistryConfig.from_toml(tmp_path / "c.toml").backends) == ["m"]
    else:
        with pytest.raises(ConfigError, match=told):
            RegistryConfig.from_toml(tmp_path / "c.toml")


def test_files_that_are_missing_or_broken_are_named(tmp_path):
    (tmp_path / "broken").write_bytes(b"{[\xff")
    for read in (RegistryConfig.from_toml, RegistryConfig.from_json, RegistryConfig.from_yaml):
        with pytest.raises(ConfigError, match="no such configuration"):
            read(tmp_path / "nope")
        with pytest.raises(ConfigError, match="broken"):
            read(tmp_path / "broken")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="a table"):
        RegistryConfig.from_json(tmp_path / "list.json")
    (tmp_path / "code.yaml").write_text("!!python/object/apply:os.system ['false']")
    with pytest.raises(ConfigError, match=r"code\.yaml"):
        RegistryConfig.from_yaml(tmp_path / "code.yaml")


def test_yaml_without_its_library_names_the_command(monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def without(name, *rest):
        if name == "yaml":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r'pip install "omnistorage\[yaml\]"'):
        RegistryConfig.from_yaml(tmp_path / "x")


def test_variables_are_replaced_only_on_request_and_a_missing_one_names_its_place(monkeypatch):
    monkeypatch.setenv("PORT", "8080")
    for unset in ("NOPE", "SECURE", "N", "B", "RO"):
        monkeypatch.delenv(unset, raising=False)
    table = {"type": "networked-for-tests", "options": {"port": "${PORT}", "secure": "${SECURE:-true}"}}
    config = RegistryConfig.from_dict({"backends": {"a": table}}, env=True)
    assert dict(config.backends["a"].options) == {"port": 8080, "secure": True}
    with pytest.raises(ConfigError, match="port"):
        RegistryConfig.from_dict({"backends": {"a": table}})
    retried = {"type": "networked-for-tests", "retry": {"retries": "${N:-5}", "base": "${B:-0.5}"}}
    stores = {"s": {"backend": "a", "options": {"read_only": "${RO:-true}"}}}
    config = RegistryConfig.from_dict({"backends": {"a": retried}, "stores": stores}, env=True)
    assert dict(config.backends["a"].retry) == {"retries": 5, "base": 0.5}
    assert config.stores["s"].options["read_only"] is True
    for wrong in ("${MY-VAR}", "${1X}", "${}"):
        with pytest.raises(ConfigError, match="names no environment variable"):
            RegistryConfig.from_dict({"backends": {"a": {"type": wrong}}}, env=True)
    missing = {"backends": {"a": {"type": "local", "options": {"root": "${NOPE}"}}}}
    assert RegistryConfig.from_dict(missing).backends["a"].options["root"] == "${NOPE}"
    with pytest.raises(ConfigError, match=r"backends.a.options.root: .*'NOPE'"):
        RegistryConfig.from_dict(missing, env=True)
    with pytest.raises(ConfigError, match=r"stores.s.root_path: .*'NOPE'"):
        RegistryConfig.from_dict({"stores": {"s": {"backend": "a", "root_path": "${NOPE}"}}}, env=True)


def test_retry_is_the_policy_of_a_networked_backend():
    config = BackendConfig("networked-for-tests", {"port": 1}, {"retries": 2, "base": 1, "cap": 3.5})
    with Registry(RegistryConfig({"n": config}, {"s": StoreProfile("n")})) as registry:
        policy = registry.get_backend("n").policy
        assert (policy.retries, policy.backoff.base, policy.backoff.cap) == (2, 1, 3.5)
    assert "retries" in repr(config)
    assert pickle.loads(pickle.dumps(config)) == config


def test_goal_41_rs_7_7_no_config_shows_a_secret():
    canary = "c4n4ry"
    table = {
        "type": "s3",
        "options": {"bucket": "b", "access_key": "AK", "secret_key": canary, "session_token": canary},
    }
    config = RegistryConfig.from_dict({"backends": {"a": table}, "stores": {"s": {"backend": "a"}}})
    with Registry(config) as registry:
        shown = [repr(config), str(config), repr(registry), repr(config.backends["a"]), repr(config.stores)]
        shown += [repr(registry.get_store("s")), str(registry.get_store("s").resolve("x"))]
    assert canary not in "".join(shown)
    secret = BackendConfig("s3", {"bucket": "b", "access_key": "AK", "secret_key": Secret.env("KEY")})
    assert pickle.loads(pickle.dumps(RegistryConfig({"a": secret}))).backends["a"] == secret


def test_goal_41_no_option_that_may_be_secret_is_shown_and_no_error_repeats_it(monkeypatch):
    canary = "c4n4ry"
    monkeypatch.setenv("PW", canary)
    shown = [
        repr(BackendConfig("sftp", {"host": "h", "key": f"-----BEGIN OPENSSH PRIVATE KEY-----{canary}"})),
        repr(BackendConfig("sftp", {"host": "h", "jump": f"bob:{canary}@gate"})),
        repr(BackendConfig("http", {"root": "https://h/", "headers": {"X-Vault": canary, "X-Auth": canary}})),
        repr(BackendConfig("sql", {"url": f"mssql://?odbc_connect=UID%3Dx%3BPWD%3D{canary}"})),
    ]
    for wrong in (
        lambda: BackendConfig("s3", f"secret_key={canary}"),
        lambda: BackendConfig(f"postgresql://u:{canary}@h/db"),
        lambda: RegistryConfig.from_dict(
            {"backends": {"a": {"type": "s3", "options": {"bucket": "b", "part_size": "${PW}"}}}}, env=True
        ),
        lambda: open_store(f"s3://bucket?part_size={canary}"),
    ):
        with pytest.raises(ConfigError) as caught:
            wrong()
        shown.append(str(caught.value))
    assert canary not in "".join(shown)


def test_open_store_takes_urls_paths_and_configs(tmp_path):
    for target in (tmp_path, str(tmp_path), tmp_path.as_uri(), BackendConfig("local", {"root": str(tmp_path)})):
        with open_store(target) as store:
            store.write("deep/x", b"1", overwrite=True)
            assert (tmp_path / "deep/x").read_bytes() == b"1"
        with pytest.raises(BackendClosed):
            store.exists("x")
    with pytest.raises(ConfigError, match="s4"):
        open_store("s4://bucket")


def test_an_unknown_store_is_told_with_the_nearest_name(tmp_path):
    with Registry(data(tmp_path)) as registry:
        with pytest.raises(ConfigError, match=r"'rew'.*'raw'.*raw, scratch, seen"):
            registry.get_store("rew")
        with pytest.raises(ConfigError, match=r"'desk'.*'disk'"):
            registry.get_backend("desk")
    with Registry() as empty, pytest.raises(ConfigError, match="there are: none"):
        empty.get_store("x")


def test_a_backend_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    config = {"backends": {"bad": {"type": "s3", "options": {"bucket": "b", "client": "other"}}}}
    with Registry(config) as registry, pytest.raises(ConfigError, match=r"backends.bad: .*client"):
        registry.get_backend("bad")


def test_rs_7_1_7_a_download_that_breaks_off_leaves_the_local_file_as_it_was(tmp_path):
    from omnistorage.testing import Flaky

    (tmp_path / "kept").write_bytes(b"old")
    for at in range(1, 7):
        inner = MemoryBackend()
        Store(inner).write("x", bytes(5 << 20))
        store = Store(Flaky(inner, at=at, sticky=True, error=lambda: NotFound("gone")))
        try:
            store.download("x", tmp_path / "kept", overwrite=True)
        except NotFound:
            assert (tmp_path / "kept").read_bytes() == b"old"
        else:
            assert (tmp_path / "kept").read_bytes() == bytes(5 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_rs_7_7_errors_can_be_caught_as_the_native_ones_and_name_the_stores_path(tmp_path):
    with Store(LocalBackend(tmp_path), "a").child("b") as store:
        store.write("x", b"1")
        with pytest.raises(FileNotFoundError) as missing:
            store.read_bytes("nope")
        assert (missing.value.path, missing.value.errno) == ("nope", errno.ENOENT)
        with pytest.raises(FileExistsError) as there:
            store.write("x", b"2")
        assert there.value.path == "x"
        assert (there.value.filename, there.value.errno) == (str(tmp_path / "a/b/x"), errno.EEXIST)


@pytest.mark.parametrize(
    "value",
    [
        "!CANARY x", "*CANARY", "!CANARY!x y", "!!python/name:CANARY x", "[&CANARY a, &CANARY b]", "!!bool CANARY",
        "!!timestamp CANARY", "!!int CANARY", "!!float CANARY", "!!int ''",
    ],
)  # fmt: skip
def test_no_error_of_a_configuration_quotes_a_value(tmp_path, value):
    path = tmp_path / "c.yaml"
    path.write_text(f"backends:\n  a:\n    type: sftp\n    options:\n      host: h\n      password: {value}\n")
    with pytest.raises(ConfigError) as caught:
        RegistryConfig.from_file(path)
    assert str(caught.value).startswith(str(path))
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "[" * 3000), ("c.json", "[" * 200_000), ("c.toml", "a=" + "[" * 3000), ("c.yaml", "a: 2020-13-45"),
        ("c.json", f'{{"backends": {"9" * 5000}}}'), ("c.toml", f"x={'9' * 5000}"), ("c.yaml", "a: 0x_"),
        ("c.yaml", "backends: &a\n  x: *a\n"),
        ("c.yaml", "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 10 if n else 'x'}]\n" for n in range(9))),
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_an_error_soon(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        tables_of(tmp_path / name)  # the text is refused as it is read, not the tables that it might hold
    assert str(caught.value).startswith(str(tmp_path / name))
