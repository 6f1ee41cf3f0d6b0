"""The table of backends, and the options that their constructors take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

from omnistorage.core.plugin_table import Table
from omnistorage.core.secret import Secret
from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError

_TABLE = Table(
    "backend",
    "omnistorage.backends",
    {
        "abfss": "omnistorage.backends.azure:AzureBackend",
        "az": "omnistorage.backends.azure:AzureBackend",
        "azure": "omnistorage.backends.azure:AzureBackend",
        "channel": "omnistorage.backends.channel:ChannelBackend",
        "compute": "omnistorage.backends.computed.functions:ComputeBackend",
        "file": "omnistorage.backends.local:LocalBackend",
        "gcs": "omnistorage.backends.gcs:GCSBackend",
        "gs": "omnistorage.backends.gcs:GCSBackend",
        "http": "omnistorage.backends.http:HTTPBackend",
        "https": "omnistorage.backends.http:HTTPBackend",
        "local": "omnistorage.backends.local:LocalBackend",
        "memory": "omnistorage.backends.memory:MemoryBackend",
        "mysql": "omnistorage.backends.sql_blob:SQLBlobBackend",
        "postgresql": "omnistorage.backends.sql_blob:SQLBlobBackend",
        "sql": "omnistorage.backends.sql_blob:SQLBlobBackend",
        "sql_query": "omnistorage.backends.sql_query:SQLQueryBackend",
        "sqlite": "omnistorage.backends.sql_blob:SQLBlobBackend",
        "s3": "omnistorage.backends.s3:S3Backend",
        "sftp": "omnistorage.backends.sftp:SFTPBackend",
        "multi": "omnistorage.multi.mirror.backend:MultiBackend",
        "tiered": "omnistorage.multi.tiered:TieredBackend",
    },
)
_NO_TEXT = re.compile(r"\b(?:Callable|Mapping|RequestPolicy)\b")
"""What the annotation of an option begins with that is an object of the programmer."""


def register_backend(name: str, cls: Any) -> None:
    """Make ``open_backend(name, ...)`` and ``name://`` URLs open ``cls`` (a class or ``"module:Class"``).

    Raises ``ConfigError`` if the name is taken by something else.
    """
    _TABLE.register(name, cls)


def backend_names() -> list[str]:
    """All names, sorted, entry points included."""
    return _TABLE.names()


def backend_class(name: str) -> Any:
    """The class under ``name``; ``ConfigError`` with the nearest right spelling if there is none."""
    return _TABLE.get(name)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` unless ``name`` is a backend that takes all of ``options``; nothing is opened."""
    cls = backend_class(name)
    if not isinstance(options, Mapping):
        raise ConfigError(f"the options of a backend are a mapping, not {type(options).__name__}")
    parameters = inspect.signature(cls).parameters
    known = [p.name for p in parameters.values() if not p.name.startswith("_")]
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option, value in options.items():
        if option not in known:
            raise ConfigError(f"the backend {name!r} has no option {option!r}{nearest(str(option), known)}")
        kinds = _plain_kinds(_note(parameters[option]))
        if kinds and not _is_one_of(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
            raise ConfigError(f"the option {option!r} of the backend {name!r} is {wanted}, not {type(value).__name__}")
    for p in parameters.values():
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.name not in options:
            raise ConfigError(f"the backend {name!r} needs the option {p.name!r}")


_PLAIN = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": float,
    "None": type(None),
    "PathLike[str]": PathLike,
    "os.PathLike[str]": PathLike,
    "Secret": Secret,
}


def _plain_kinds(annotation: str) -> tuple[type, ...]:
    """The types that an annotation allows, if it names nothing but plain ones."""
    words = [word.strip() for word in annotation.split("|")]
    return tuple(_PLAIN[word] for word in words) if all(word in _PLAIN for word in words) else ()


def _is_one_of(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):  # which Python takes for a number
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _note(parameter: inspect.Parameter) -> str:
    """What the constructor says of an option, whether or not its module keeps annotations as text."""
    note = parameter.annotation
    return note.__name__ if isinstance(note, type) else str(note)


def backend_parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """The options of the backend ``name``."""
    return inspect.signature(backend_class(name)).parameters


def may_be_secret(name: str, option: str) -> bool:
    """Whether the backend ``name`` takes a ``Secret`` for ``option``."""
    parameter = backend_parameters(name).get(option)
    return parameter is not None and "Secret" in _note(parameter)


def typed_options(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Options that came as text, as what the backend's constructor asks for."""
    parameters = backend_parameters(name)
    return {
        key: _typed(key, value, _note(parameters[key]) if key in parameters else "") for key, value in options.items()
    }


def _known(options: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in parameters}


def _typed(key: str, value: str, annotation: str) -> Any:
    """A query value as what the constructor's annotation asks for."""
    if key.startswith("_") or _NO_TEXT.search(annotation.partition("[")[0]):
        raise ConfigError(f"no text in a URL can be the option {key!r}: give it to open_backend(name, options)")
    if "bool" in annotation:
        if value.lower() not in ("true", "false", "1", "0"):
            if "Literal" in annotation:
                return value  # which the constructor knows, or refuses
            raise ConfigError(f"the option {key!r} is true or false, and the text given is neither")
        return value.lower() in ("true", "1")
    for kind in (int, float):
        if kind.__name__ in annotation and "str" not in annotation:
            try:
                return kind(value)
            except ValueError:
                raise ConfigError(f"the option {key!r} is a number, and the text given is none") from None
    return value
