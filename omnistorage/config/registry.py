"""Backends by name and by URL.

One table of names, loaded lazily: nothing registers itself by being imported. A backend that can be opened by URL has a
classmethod ``options_from_url(parts, *, is_object)`` that returns its constructor's options and the path that is left;
the fragment behind a ``#`` is among the parts if the class says ``takes_fragment = True``, and refused otherwise.
Options stand in the query; a class whose URLs have queries of their own says ``takes_query = True``, and its options
stand behind the ``#``. Options that lower protection or name secrets of this machine stand in the class's
``not_from_urls``, and are taken from a URL only if the caller says ``trusted_url=True``. Options that lift a bound on
what a server can cost stand in ``not_from_untrusted_urls``, and are not taken where ``untrusted`` is forced, either.
What the other parts of a URL say, such as its host, no option says otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from os import PathLike, fspath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from omnistorage.core import ExtendedBackend
from omnistorage.core.secret import mask_url
from omnistorage.errors import ConfigError

from .backend_options import _known, _note, _typed, backend_class, check_options
from .models import BackendConfig

_IN_PATH = ("prefix", "root")


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
        again = {option for option in own & found.keys() if option not in options or options[option] != found[option]}
        untrusted = bool((forced or {}).get("untrusted"))
        _check_options_of(url, cls, found.keys(), again, trusted=trusted, untrusted=untrusted)
    return parts.scheme, {**options, **found}, path


def _check_options_of(
    url: str, cls: Any, given: Collection[str], own: Collection[str], *, trusted: bool, untrusted: bool
) -> None:
    """Raise ``ConfigError`` for an option of a URL that the URL may not set. ``own`` are those that its other parts
    say otherwise: with another host or root in an option, the URL would lead elsewhere than everybody reads in it."""
    for option in sorted(own):
        advice = "write it into the URL's path" if option in _IN_PATH else "leave it out"
        raise ConfigError(f"the option {option!r} is not what the rest of the URL says: {advice}: {mask_url(url)}")
    held = getattr(cls, "not_from_urls", frozenset[str]())
    if untrusted:
        held |= getattr(cls, "not_from_untrusted_urls", frozenset[str]())
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
