"""Configuration as frozen data: what to open, said in a dict, or a TOML, YAML or JSON file.

No merging, no layering, no magic environment. ``${VAR}`` and ``${VAR:-default}`` are replaced only when asked for, and
a missing one names its place. An unknown key is an error with the nearest right spelling, found when the text is read.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike, environ, fspath
from types import MappingProxyType
from typing import Any, TypeVar

from omnistorage.concurrency.retry import Backoff, RequestPolicy
from omnistorage.core.secret import HIDDEN, Secret, mask, mask_url, url_holds_secret
from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError, InvalidPath, MissingExtra
from omnistorage.paths import check_new

T = TypeVar("T")
_VARIABLE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED = re.compile(r"""(['"])(?!<).*\1""", re.DOTALL)
MOST_VALUES = 100_000
"""So many values a configuration in YAML has at most."""


@dataclass(frozen=True, repr=False)
class BackendConfig:
    """A backend as data: ``type`` is its name in the registry, ``options`` its constructor's arguments; ``retry`` how a
    networked one tries again: ``{"retries": 5, "base": 0.2, "cap": 20.0}``, the waits in seconds.

    Checked when made: an unknown type or option, or one of another type than it has, is a ``ConfigError``. Prints with
    every secret masked.
    """

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    retry: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        from .backend_options import check_options

        if not isinstance(self.type, str):
            raise ConfigError(f"the type of a backend is a name, not {type(self.type).__name__}")
        if not isinstance(self.options, Mapping):
            raise ConfigError(
                f"the options of backend type {self.type!r} are a table, not {type(self.options).__name__}"
            )
        check_options(self.type, self.options)
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        if self.retry is not None:
            self._check_retry(self.retry)
            object.__setattr__(self, "retry", MappingProxyType(dict(self.retry)))

    def _check_retry(self, retry: Mapping[str, Any]) -> None:
        from .backend_options import backend_parameters

        _table(retry, f"retry of backend type {self.type!r}", ("retries", "base", "cap"))
        for key, value in retry.items():
            if (
                isinstance(value, bool)
                or not isinstance(value, int if key == "retries" else int | float)
                or not value >= 0
            ):
                raise ConfigError(f"retry: {key} counts from 0, not {value!r}")
        if "policy" not in backend_parameters(self.type):
            raise ConfigError(f"the backend {self.type!r} sends no requests that could be tried again: leave out retry")

    def policy(self) -> RequestPolicy | None:
        """What ``retry`` says, as a policy; None where nothing is said."""
        if self.retry is None:
            return None
        said = self.retry
        backoff = Backoff(said.get("base", Backoff.base), said.get("cap", Backoff.cap))
        return RequestPolicy(said.get("retries", RequestPolicy.retries), backoff)

    def __repr__(self) -> str:
        retry = "" if self.retry is None else f", retry={dict(self.retry)!r}"
        return f"BackendConfig(type={self.type!r}, options={masked_options(self.type, self.options)!r}{retry})"

    def __hash__(self) -> int:
        return hash((self.type, tuple(sorted(self.options))))

    def __reduce__(self) -> Any:
        for key, value in self.options.items():
            if _is_plain_secret(self.type, key, value):
                raise ConfigError(
                    f"the option {key!r} of the backend {self.type!r} is a secret in plain text, which a pickle would "
                    "show: give Secret.env, Secret.file or Secret.command, or Secret(..., pickle=True)"
                )
        return BackendConfig, (self.type, dict(self.options), None if self.retry is None else dict(self.retry))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "backend", env: bool = False) -> BackendConfig:
        """From ``{"type": "local", "options": {"root": "/data"}}``. ``env=True`` replaces ``${VAR}``."""
        data = _table(data, where, ("type", "options", "retry"))
        if "type" not in data:
            raise ConfigError(f"{where}: the key 'type' is missing")
        raw, data = data, expand(data, where) if env else data

        def make() -> BackendConfig:
            options = data.get("options", {})
            if env and isinstance(options, Mapping):  # a variable is text, an option may be a number
                from .backend_options import typed_options

                spelled = (
                    {k for k, v in raw["options"].items() if isinstance(v, str) and "${" in v} if options else set()
                )
                options = {**options, **typed_options(data["type"], {key: options[key] for key in spelled})}
            retry = data.get("retry")
            if env and isinstance(retry, Mapping):
                retry = {key: _number(value) for key, value in retry.items()}
            return cls(data["type"], options, retry)

        return _placed(where, make)

    @classmethod
    def from_toml(cls, path: str | PathLike[str], name: str | None = None, *, env: bool = False) -> BackendConfig:
        """From a TOML file: the table ``[backends.NAME]``, which may be left out if the file has only one."""
        found = backends_from_toml(path, env=env)
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if name is None:
            raise ConfigError(f"{path}: name one of the backends: {', '.join(sorted(found)) or 'there is none'}")
        if name not in found:
            raise ConfigError(f"{path}: no backend {name!r}{nearest(name, found)}")
        return found[name]


def masked_options(type_: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a backend without what may be a secret: by its name, by its form, or because the backend takes a
    ``Secret`` there; of headers all values."""
    shown = dict(mask(dict(options)))
    for key, value in options.items():
        if isinstance(value, Mapping) and "header" in key:
            shown[key] = {name: mask(one) if isinstance(one, Secret) else HIDDEN for name, one in value.items()}
        elif value is not None and not isinstance(value, Secret) and _takes_secret(type_, key):
            shown[key] = HIDDEN
    return shown


def masked_place(place: Any) -> Any:
    """A URL, or the table of a backend, without what may be a secret; anything else as it is."""
    if isinstance(place, Mapping) and isinstance(place.get("options"), Mapping):
        return {**mask(place), "options": masked_options(place.get("type"), place["options"])}
    return mask(place)


def _takes_secret(type_: Any, option: str) -> bool:
    from .backend_options import may_be_secret

    try:
        return may_be_secret(type_, option)
    except ConfigError:
        return False  # no such backend: the name of the option alone tells


def _is_plain_secret(type_: str, option: str, value: Any) -> bool:
    def without_references(one: Any) -> Any:
        if isinstance(one, Mapping):
            return {key: without_references(inner) for key, inner in one.items()}
        if isinstance(one, list | tuple):
            return [without_references(inner) for inner in one]
        return None if isinstance(one, Secret) or (isinstance(one, str) and _VARIABLE.fullmatch(one)) else one

    from .backend_options import backend_parameters, may_be_secret

    if isinstance(value, str) and option in backend_parameters(type_) and not may_be_secret(type_, option):
        return mask_url(value) != value  # the access key of S3 names an account and opens nothing
    plain = {option: without_references(value)}
    return any(one is not None for one in _hidden(masked_options(type_, plain)[option], plain[option]))


def _hidden(shown: Any, value: Any) -> list[Any]:
    """What of ``value`` is not shown as it is."""
    if isinstance(value, Mapping) and isinstance(shown, Mapping):
        return [found for key in value for found in _hidden(shown[key], value[key])]
    return [] if shown == value else [value]


def holds_secret(place: Any) -> bool:
    """Whether a URL, or a table that may be written down, holds a secret as it is, and not as ``${VAR}``."""
    if not isinstance(place, Mapping):
        return isinstance(place, str) and url_holds_secret(place)

    def named(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: named(inner) for key, inner in value.items()}
        return None if isinstance(value, str) and _VARIABLE.fullmatch(value) else value

    plain = named(place)
    options = plain.get("options")
    if isinstance(options, Mapping):  # of a backend, which says what of them is secret
        shown = masked_options(plain.get("type"), options)
        if any(one is not None for one in _hidden(shown, options)):
            return True
    return bool(mask(plain) != plain)


@dataclass(frozen=True)
class StoreProfile:
    """A store as data: the name of a backend of the same configuration, and the folder of it that is the root.
    ``options``: ``read_only=True`` refuses everything that changes something."""

    backend: str
    root_path: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("backend", "root_path"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} of a store is text, not {getattr(self, name)!r}")
        if self.root_path.rstrip("/") not in ("", "."):
            try:
                check_new(self.root_path.removesuffix("/"))
            except InvalidPath as error:
                raise ConfigError(f"root_path {self.root_path!r} is no folder of a backend: {error.args[0]}") from None
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"the options of a store are a table, not {type(self.options).__name__}")
        for key, value in self.options.items():
            if key != "read_only":
                raise ConfigError(f"a store has no option {key!r}{nearest(str(key), ('read_only',))}")
            if not isinstance(value, bool):
                raise ConfigError(f"read_only is true or false, not {value!r}")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __hash__(self) -> int:
        return hash((self.backend, self.root_path, tuple(sorted(self.options.items()))))

    def __reduce__(self) -> Any:
        return StoreProfile, (self.backend, self.root_path, dict(self.options))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "store", env: bool = False) -> StoreProfile:
        """From ``{"backend": "lake", "root_path": "raw"}``. ``env=True`` replaces ``${VAR}``."""
        data = _table(data, where, ("backend", "root_path", "options"))
        if "backend" not in data:
            raise ConfigError(f"{where}: the key 'backend' is missing")
        data = expand(data, where) if env else data
        options = data.get("options")
        if env and isinstance(options, Mapping) and options.get("read_only") in ("true", "false"):
            data = {**data, "options": {**options, "read_only": options["read_only"] == "true"}}
        return _placed(where, lambda: cls(**data))


@dataclass(frozen=True)
class RegistryConfig:
    """Backends and the stores on them, each by name. Checked when made: a store of a backend that is not there is a
    ``ConfigError``. Prints with every secret masked."""

    backends: Mapping[str, BackendConfig] = field(default_factory=dict)
    stores: Mapping[str, StoreProfile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for field_name, kind in (("backends", BackendConfig), ("stores", StoreProfile)):
            found = getattr(self, field_name)
            if not isinstance(found, Mapping):
                raise ConfigError(f"{field_name} are named in a table, not in {type(found).__name__}")
            for name, value in found.items():
                if not isinstance(name, str):
                    raise ConfigError(f"{field_name}: a name is text, not {name!r}: put it in quotes")
                if not isinstance(value, kind):
                    raise ConfigError(f"{field_name}.{name} is a {kind.__name__}, not {type(value).__name__}")
            object.__setattr__(self, field_name, MappingProxyType(dict(found)))
        for name, profile in self.stores.items():
            if profile.backend not in self.backends:
                hint = nearest(profile.backend, self.backends)
                raise ConfigError(f"stores.{name}: there is no backend {profile.backend!r}{hint}")

    def __hash__(self) -> int:
        return hash((tuple(sorted(self.backends)), tuple(sorted(self.stores))))

    def __reduce__(self) -> Any:
        return RegistryConfig, (dict(self.backends), dict(self.stores))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "config", env: bool = False) -> RegistryConfig:
        """From ``{"backends": {name: {"type": ..., "options": ...}}, "stores": {name: {"backend": ...}}}``.
        ``env=True`` replaces ``${VAR}`` and ``${VAR:-default}`` in every text."""
        data = _table(data, where, ("backends", "stores"))
        tables = {}
        for key in ("backends", "stores"):
            tables[key] = data.get(key, {})
            if not isinstance(tables[key], Mapping):
                raise ConfigError(f"{where}: {key!r} is a table of tables: [{key}.NAME]")
        backends = {
            name: BackendConfig.from_dict(table, where=f"{where}: backends.{name}", env=env)
            for name, table in tables["backends"].items()
        }
        stores = {
            name: StoreProfile.from_dict(table, where=f"{where}: stores.{name}", env=env)
            for name, table in tables["stores"].items()
        }
        return _placed(where, lambda: cls(backends, stores))

    @classmethod
    def from_toml(cls, path: str | PathLike[str], *, env: bool = False) -> RegistryConfig:
        """From a TOML file: its ``[backends.NAME]`` and ``[stores.NAME]``, or those under ``[tool.omnistorage]``."""
        return cls.from_dict(_toml(path), where=str(path), env=env)

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, env: bool = False) -> RegistryConfig:
        """From a file of the format that its suffix names: ``.json``, ``.yaml``, ``.yml``, else TOML."""
        return cls.from_dict(tables_of(path), where=str(path), env=env)

    @classmethod
    def from_json(cls, path: str | PathLike[str], *, env: bool = False) -> RegistryConfig:
        """From a JSON file of the same shape."""
        return cls.from_dict(_json(path), where=str(path), env=env)

    @classmethod
    def from_yaml(cls, path: str | PathLike[str], *, env: bool = False) -> RegistryConfig:
        """From a YAML file of the same shape (plain data only). Needs the extra ``yaml``."""
        return cls.from_dict(_yaml(path), where=str(path), env=env)


def backends_from_toml(path: str | PathLike[str], *, env: bool = False) -> dict[str, BackendConfig]:
    """All backends of a TOML file."""
    return dict(RegistryConfig.from_toml(path, env=env).backends)


def tables_of(path: str | PathLike[str]) -> Any:
    """What a configuration file holds, by the format that its suffix names."""
    suffix = fspath(path).lower().rpartition(".")[2]
    return _json(path) if suffix == "json" else _yaml(path) if suffix in ("yaml", "yml") else _toml(path)


def _toml(path: str | PathLike[str]) -> Any:
    data = _read(path, lambda file: tomllib.load(file), tomllib.TOMLDecodeError)
    ours = data.get("tool", {}).get("omnistorage") if isinstance(data.get("tool"), dict) else None
    plain = {key: value for key, value in data.items() if key != "tool"}
    if ours is not None and plain.keys() & {"backends", "stores"}:
        raise ConfigError(f"{path}: backends and stores stand both in [tool.omnistorage] and outside: choose one")
    if ours is None and ("project" in plain or ("tool" in data and not plain)):
        raise ConfigError(f"{path}: there is no table [tool.omnistorage]")
    return plain if ours is None else ours


def _json(path: str | PathLike[str]) -> Any:
    return _read(path, json.load, json.JSONDecodeError)


def _yaml(path: str | PathLike[str]) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra('YAML needs PyYAML: pip install "omnistorage[yaml]"', extra="yaml") from error

    def load(file: Any) -> Any:
        try:
            return yaml.safe_load(file)
        except yaml.MarkedYAMLError as error:  # which quotes what begins with "!" or "*", as a password may
            problem, mark = _QUOTED.sub("...", error.problem or "this is no YAML"), error.problem_mark
            where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise ConfigError(f"{path}{where}: {problem}") from None

    found = _read(path, load, yaml.YAMLError)
    _check_values(found, path)
    return found if found is not None else {}


def _check_values(found: Any, path: str | PathLike[str]) -> None:
    """Raise ``ConfigError`` for more values than a configuration has. Aliases of YAML in aliases make any number."""
    waiting, count = [found], 0
    while waiting:
        value = waiting.pop()
        waiting.extend(value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ())
        count += 1
        if count > MOST_VALUES:
            raise ConfigError(f"{path}: a configuration has at most {MOST_VALUES} values, aliases counted each time")


def _read(path: str | PathLike[str], load: Callable[[Any], Any], wrong: type[Exception]) -> Any:
    try:
        with open(path, "rb") as file:
            return load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except ConfigError:
        raise
    except (OSError, UnicodeDecodeError, wrong) as error:
        raise ConfigError(f"{path}: {error}") from error
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # a number, date or switch that is none (PyYAML raises whatever its constructors do), or endless brackets
        raise ConfigError(f"{path}: a value in it cannot be read ({type(error).__name__})") from None


def _table(data: Any, where: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    """``data`` if it is a table with no other keys."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: a table with {' and '.join(known)} is needed, not {type(data).__name__}")
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
    return data


def _number(value: Any) -> Any:
    """A text that a variable stood for, as the number it spells."""
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def _placed(where: str, make: Callable[[], T]) -> T:
    """What ``make`` returns; its errors say where."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.args[0]}") from None


def expand(value: Any, where: str) -> Any:
    """``value`` with ``${VAR}`` and ``${VAR:-default}`` replaced in every string, however nested."""
    if isinstance(value, Mapping):
        return {key: expand(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [expand(item, f"{where}[{at}]") for at, item in enumerate(value)]
    return _VARIABLE.sub(_replacer(where), value) if isinstance(value, str) else value


def _replacer(where: str) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: {match[0]!r} names no environment variable: ${{NAME}} or ${{NAME:-default}}")
        if name in environ:
            return environ[name]
        if default is None:
            raise ConfigError(f"{where}: the environment variable {name!r} is not set; ${{{name}:-default}} gives one")
        return default

    return replace
