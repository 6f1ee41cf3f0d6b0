"""Configuration as frozen data: what to open, said in a dict or a TOML file. Floor 2.

No merging, no layering, no magic environment. ``${VAR}`` and ``${VAR:-default}`` are replaced only when asked for, and
a missing one names its place. An unknown key is an error with the nearest right spelling, found when the text is read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike, environ
from types import MappingProxyType
from typing import Any

from ._table import nearest
from .errors import ConfigError
from .secret import mask

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True, repr=False)
class BackendConfig:
    """A backend as data: ``type`` is its name in the registry, ``options`` its constructor's arguments.

    Checked when made: an unknown type or option is a ``ConfigError``. Prints with every secret masked.
    """

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from .registry import check_options

        if not isinstance(self.type, str):
            raise ConfigError(f"the type of a backend is a name, not {self.type!r}")
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"the options of backend type {self.type!r} are a table, not {self.options!r}")
        check_options(self.type, self.options)
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __repr__(self) -> str:
        return f"BackendConfig(type={self.type!r}, options={mask(dict(self.options))!r})"

    def __hash__(self) -> int:
        return hash((self.type, tuple(sorted(self.options))))

    def __reduce__(self) -> Any:
        return BackendConfig, (self.type, dict(self.options))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "backend", env: bool = False) -> BackendConfig:
        """From ``{"type": "local", "options": {"root": "/data"}}``. ``env=True`` replaces ``${VAR}``."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: a table with type and options is needed, not {type(data).__name__}")
        for key in data:
            if key not in ("type", "options"):
                raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), ('type', 'options'))}")
        if "type" not in data:
            raise ConfigError(f"{where}: the key 'type' is missing")
        data = expand(data, where) if env else data
        try:
            return cls(data["type"], data.get("options", {}))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.args[0]}") from None

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


def backends_from_toml(path: str | PathLike[str], *, env: bool = False) -> dict[str, BackendConfig]:
    """All backends of a TOML file, from its ``[backends.NAME]`` tables, or those under ``[tool.omnistorage]``."""
    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if "tool" in data:
        data = data["tool"].get("omnistorage", {})
    for key in data:
        if key != "backends":
            raise ConfigError(f"{path}: unknown table {key!r}{nearest(key, ('backends',))}")
    tables = data.get("backends", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: 'backends' is a table of tables: [backends.NAME]")
    return {
        name: BackendConfig.from_dict(table, where=f"{path}: backends.{name}", env=env)
        for name, table in tables.items()
    }


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
        if name in environ:
            return environ[name]
        if default is None:
            raise ConfigError(f"{where}: the environment variable {name!r} is not set; ${{{name}:-default}} gives one")
        return default

    return replace
