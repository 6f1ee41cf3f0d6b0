"""Backends by name and by URL. Floor 2.

One table of names, loaded lazily: nothing registers itself by being imported. A backend that can be opened by URL has a
classmethod ``options_from_url(parts, *, is_object)`` that returns its constructor's options and the path that is left;
the fragment behind a ``#`` is among the parts if the class says ``takes_fragment = True``, and refused otherwise.
Options stand in the query; a class whose URLs have queries of their own says ``takes_query = True``, and its options
stand behind the ``#``. Options that lower protection or name secrets of this machine stand in the class's
``not_from_urls``, and are taken from a URL only if the caller says ``trusted_url=True``. Options that lift a bound on
what a server can cost stand in ``not_from_strangers``, and are not taken where ``untrusted`` is forced, either. What
the other parts of a URL say, such as its host, no option says otherwise.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from os import PathLike, fspath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ._table import Table, nearest
from .config import BackendConfig
from .core import ExtendedBackend
from .errors import ConfigError
from .secret import Secret, mask_url

_TABLE = Table(
    "backend",
    "omnistorage.backends",
    {
        "abfss": "omnistorage.backends.azure:AzureBackend",
        "az": "omnistorage.backends.azure:AzureBackend",
        "azure": "omnistorage.backends.azure:AzureBackend",
        "channel": "omnistorage.backends.channel:ChannelBackend",
        "compute": "omnistorage.backends.compute:ComputeBackend",
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
        "multi": "omnistorage.multi.mirrored:MultiBackend",
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


def open_backend(
    spec: str | PathLike[str] | BackendConfig,
    options: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    forced: Mapping[str, Any] | None = None,
    trusted_url: bool = False,
) -> ExtendedBackend:
    """Open a backend. Performs no I/O.

    Args:
        spec: A URL (``"file:///data"``), the path of a folder with a slash in it (``"./data"``), the name of a backend
            (``"local"``), a ``BackendConfig`` or a path object. Only here is a bare name not a path.
        options: The constructor's options, where ``spec`` is a name.
        defaults: Options for those backends that have them and are not told otherwise, such as a ``policy`` for all
            that have a network.
        forced: The same, but these beat what the URL or the options say.
        trusted_url: Whether the URL may set options that lower protection or name secrets of this machine, such as
            ``verify``, ``proxy``, ``key_file`` and ``host_keys``.

    Raises:
        ConfigError: for an unknown name or option, or one that is not taken from a URL.

    Example:
        >>> open_backend("file:///data").url
        'file:///data/'
    """
    if isinstance(spec, BackendConfig):
        if options:
            raise ConfigError("a BackendConfig brings its own options; give none beside it")
        policy = spec.policy()
        defaults = defaults if policy is None else {**(defaults or {}), "policy": policy}
        return _make(spec.type, spec.options, defaults, forced)
    if isinstance(spec, PathLike):
        return _make("local", {"root": spec}, defaults, forced)
    if not isinstance(spec, str):
        raise ConfigError(f"a backend is opened by a name, a URL, a path or a BackendConfig, not {type(spec).__name__}")
    if "/" in spec and "://" not in spec:
        if options:
            raise ConfigError(f"options go with the name of a backend, such as local, not with the path {spec!r}")
        return _make("local", {"root": spec}, defaults, forced)
    if "://" not in spec:
        return _make(spec, options or {}, defaults, forced)
    if options:
        raise ConfigError(f"a URL brings its own options; put them into its query: {mask_url(spec)}")
    name, found, path = _from_url(spec, is_object=False, trusted=trusted_url, forced=forced)
    if path:
        raise ConfigError(f"the URL names an object inside the backend, not a backend: {mask_url(spec)}")
    return _make(name, found, defaults, forced)


def locate(
    target: str | PathLike[str],
    *,
    is_object: bool = True,
    defaults: Mapping[str, Any] | None = None,
    forced: Mapping[str, Any] | None = None,
    schemes: Collection[str] | None = None,
    trusted_url: bool = False,
) -> tuple[ExtendedBackend, str]:
    """A backend and a path in it. Performs no I/O.

    Args:
        target: A URL, or the path of a file.
        is_object: Whether the last segment is the object. Else the whole is a folder, and the path returned is ``""``
            where the backend can be opened right there.
        defaults: As for ``open_backend``.
        forced: As for ``open_backend``.
        schemes: The URLs to take, such as ``("http", "https")``; then a text without a scheme is refused as well, and
            a path object is taken. None takes all.
        trusted_url: As for ``open_backend``.

    Raises:
        ConfigError: as for ``open_backend``, and where the URL names no object.
    """
    text = target
    if isinstance(target, PathLike):
        text = fspath(target)
        text = f"./{text}" if isinstance(text, str) and text.startswith("~") else text
    if schemes is not None and isinstance(target, str) and target.partition("://")[0].lower() not in schemes:
        raise ConfigError(f"only URLs of {' and '.join(schemes)} are taken here, not {mask_url(target)!r:.200}")
    if not isinstance(text, str):
        raise ConfigError(f"a place is a URL or a path, not {type(text).__name__}")
    if "://" not in text:
        options, path = backend_class("local").options_from_path(text, is_object=is_object)
        return _make("local", options, defaults, forced), path
    name, options, path = _from_url(text, is_object=is_object, trusted=trusted_url, forced=forced)
    if is_object and not path:
        raise ConfigError(f"the URL names no object: {mask_url(text)}")
    return _make(name, options, defaults, forced), path


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


def _make(
    name: str, options: Mapping[str, Any], defaults: Mapping[str, Any] | None, forced: Mapping[str, Any] | None
) -> ExtendedBackend:
    check_options(name, options)
    cls = backend_class(name)
    if defaults or forced:
        defaults, forced = defaults or {}, forced or {}
        known = inspect.signature(cls).parameters
        if "defaults" in known:  # it opens others by URL
            options = {"defaults": {**defaults, **forced}, **options}
        options = {**_known(defaults, known), **options, **_known(forced, known)}
    backend: ExtendedBackend = cls(**options)
    return backend


def _known(options: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in parameters}


def _from_url(
    url: str, *, is_object: bool, trusted: bool, forced: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any], str]:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"not a URL: {mask_url(url)}") from error
    cls = backend_class(parts.scheme)
    if not hasattr(cls, "options_from_url"):
        raise ConfigError(f"the backend {parts.scheme!r} cannot be opened by URL; use open_backend(name, options)")
    takes_fragment = getattr(cls, "takes_fragment", False)
    takes_query = getattr(cls, "takes_query", False)
    bare = parts._replace(query=parts.query if takes_query else "", fragment=parts.fragment if takes_fragment else "")
    options, path = cls.options_from_url(bare, is_object=is_object)
    if parts.fragment and not takes_fragment and not takes_query:
        raise ConfigError(f"a '#' in a URL starts a fragment, which means nothing here: write %23: {mask_url(url)}")
    given = parts.fragment if takes_query else parts.query
    if takes_query and not all("=" in each for each in given.split("&") if each):
        raise ConfigError(f"behind the '#' stand options, name=value; a '#' of a name is %23: {mask_url(url)}")
    found = _query_options(cls, given)
    if found:
        own = options.keys() | cls.options_from_url(bare, is_object=False)[0].keys()
        _check_options_of(url, cls, found.keys(), own, trusted=trusted, strange=bool((forced or {}).get("untrusted")))
    return parts.scheme, {**options, **found}, path


def _check_options_of(
    url: str, cls: Any, given: Collection[str], own: Collection[str], *, trusted: bool, strange: bool
) -> None:
    """Raise ``ConfigError`` for an option of a URL that the URL may not set. ``own`` are those that its other parts
    say: with another host or root in an option, the URL would lead elsewhere than everybody reads in it."""
    for option in sorted(set(given) & set(own)):
        raise ConfigError(f"the option {option!r} says again what the URL itself says: leave it out: {mask_url(url)}")
    held = getattr(cls, "not_from_urls", frozenset[str]())
    if strange:
        held |= getattr(cls, "not_from_strangers", frozenset[str]())
    for option in () if trusted else sorted(held.intersection(given)):
        raise ConfigError(
            f"the option {option!r} is not taken from a URL, which somebody else may have chosen: give it to "
            f"open_backend({url.partition(':')[0].lower()!r}, options), or say trusted_url=True there: {mask_url(url)}"
        )


def _query_options(cls: Any, query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    parameters = inspect.signature(cls).parameters
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in found:
            raise ConfigError(f"the option {key!r} stands twice in the URL")
        found[key] = _typed(key, value, _note(parameters[key]) if key in parameters else "")
    return found


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


__all__ = [
    "backend_class",
    "backend_names",
    "check_options",
    "locate",
    "mask_url",
    "open_backend",
    "register_backend",
]
