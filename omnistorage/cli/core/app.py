"""What every verb needs: the global settings, where to say things, and what an argument stands for."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from omnistorage.core.secret import mask_url
from omnistorage.errors import ConfigError, StorageError

from .exit_codes import FATAL, combined, escape, exit_code, explain
from .progress import Meter
from .signals import Stops
from .stdio import Stdout

if TYPE_CHECKING:
    from omnistorage.config import RegistryConfig
    from omnistorage.core import Backend, ExtendedBackend

MAX_OPENED = 100
_NAMED = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*):(?!//)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Location:
    """A backend, a path in it, and the text to show for it."""

    backend: ExtendedBackend
    path: str
    text: str

    def child(self, path: str) -> Location:
        """What lies at ``path`` below."""
        joined = f"{self.path}/{path}" if self.path else path
        text, query = self.text, ""
        if "://" in text:
            text, sign, options = text.partition("?")
            query = sign + options
        return Location(self.backend, joined, f"{text}{'' if text.endswith(('/', ':')) else '/'}{path}{query}")


@contextmanager
def naming(text: str) -> Iterator[None]:
    """Errors from inside show ``text``, which is what the user typed, instead of a path inside a backend."""
    try:
        yield
    except StorageError as error:
        if not hasattr(error, "shown"):
            error.shown = text  # type: ignore[attr-defined]
        raise


def not_home(argument: str) -> str:
    """Return ``argument`` unless it begins with ``~``: a shell has replaced those that were typed, so it is a name that
    was found."""
    if argument.startswith("~"):
        raise ConfigError("this begins with a ~ that no shell has replaced; a file of this name is ./~...")
    return argument


@dataclass
class App:
    """The state of one run of the command. People are spoken to on standard error; data and events go to ``out``."""

    config: str | None = None
    verbose: int = 0
    quiet: bool = False
    json: bool = False
    progress: bool | None = None
    retries: int | None = None
    timeout: float | None = None  # seconds
    bwlimit: int | str | None = None  # bytes a second, of all networked backends together; 0: no limit; a timetable
    tpslimit: float | None = None
    verb: str = ""
    events: bool = False  # this verb's --json is a stream of events
    interrupted: str = "nothing half-written was left"
    stops: Stops = field(default_factory=Stops)
    meter: Meter = field(default_factory=Meter)
    out: Stdout = field(default_factory=Stdout)
    done: int = 0
    _failures: list[int] = field(default_factory=list)
    _log: IO[str] | None = None
    _opened: list[ExtendedBackend] = field(default_factory=list)
    _configured: RegistryConfig | None = None
    _making: list[str] = field(default_factory=list)
    _named: dict[str, ExtendedBackend] = field(default_factory=dict)
    _places: dict[str, ExtendedBackend] = field(default_factory=dict)  # by URL

    # -- speaking ------------------------------------------------------------------------------------------------------

    def log_to(self, path: str) -> None:
        """Append everything that is said, details included, to a file."""
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._log = open(file, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"the log file {path!r} cannot be opened: {error.strerror}") from error

    def say(self, text: str) -> None:
        """What was done, unless ``-q``."""
        self._speak("INFO", text, shown=not self.quiet)

    def detail(self, text: str) -> None:
        """How it is done, with ``-v``."""
        self._speak("DEBUG", text, shown=self.verbose > 0)

    def warn(self, text: str) -> None:
        """Something to look at that is no failure."""
        self._speak("WARNING", f"omnistorage: warning: {text}", shown=True)

    def error(self, text: str, code: int) -> None:
        """Print an error and remember that the run failed."""
        self._failures.append(code)
        self._speak("ERROR", f"omnistorage: error: {text}", shown=True)
        self.event("error", message=escape(mask_url(text)), exit_code=code)

    @property
    def failures(self) -> int:
        """How many errors were printed so far."""
        return len(self._failures)

    def failed(self, error: StorageError) -> None:
        """Report one error among others and go on."""
        self.error(explain(error), exit_code(error))
        self.trace(error)

    def trace(self, error: BaseException) -> None:
        """The traceback, with ``-vv`` or into the log file."""
        if self.verbose > 1 or self._log is not None:
            text = mask_url("".join(traceback.format_exception(error))).rstrip()
            for line in text.split("\n"):
                self._speak("TRACE", line, shown=self.verbose > 1)

    def _speak(self, level: str, text: str, *, shown: bool) -> None:
        line = escape(mask_url(text))
        if self._log is not None:
            self._log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {level} {line}\n")
        if shown and sys.stderr is not None:
            try:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
            except (OSError, ValueError):  # nobody listens; the exit code still speaks
                pass

    def event(self, kind: str, **fields: Any) -> None:
        """One line of ``--json``."""
        if self.json and self.events:
            self.out.json({"event": kind, **{k: v for k, v in fields.items() if v is not None}})
            self.out.flush()

    def draw(self, label: str) -> None:
        """Start the live display if it is wanted."""
        if self.progress or (self.progress is None and not self.quiet and not self.verbose):
            self.meter.draw(label)

    # -- arguments -----------------------------------------------------------------------------------------------------

    def locate(self, argument: str, *, is_object: bool = True, private: bool = False) -> Location:
        """What a URL, a plain path or ``name:path`` stands for. With ``is_object`` the last segment is the object.
        ``private`` is for state: a local folder is for its owner alone."""
        from omnistorage.config import locate
        from omnistorage.ops import extended

        with naming(mask_url(argument)):
            not_home(argument)
            named = None if "://" in argument else _NAMED.fullmatch(argument)
            if named is not None:
                name, path = named.groups()
                return Location(self._backend(name), path if is_object else path.rstrip("/"), argument)
            defaults = {**self.defaults, "private": True} if private else self.defaults
            backend, path = locate(argument, is_object=is_object, defaults=defaults, trusted_url=True)
        if private:
            self._opened.append(backend)
        else:
            backend = self._shared(argument, backend)
        self.detail(f"{argument} is {backend.url}{path}" if backend.url else f"{argument}: {path!r} in {backend.name}")
        return Location(extended(backend), path, mask_url(argument))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """What the global options say to every backend that has a network; the same limits for all together."""
        found: dict[str, Any] = {}
        if self.timeout is not None:
            found = {"timeout": self.timeout, "read_timeout": self.timeout}
        if (self.retries, self.bwlimit or None, self.tpslimit) != (None, None, None):
            from omnistorage.concurrency.rate_limit import TokenBucket
            from omnistorage.concurrency.retry import RequestPolicy

            if isinstance(self.bwlimit, str):
                raise ConfigError("a timetable of --bwlimit is for sync, copy and move")
            policy = RequestPolicy() if self.retries is None else RequestPolicy(retries=self.retries)
            found["policy"] = replace(
                policy,
                bandwidth=TokenBucket(self.bwlimit) if self.bwlimit else None,
                requests=TokenBucket(self.tpslimit) if self.tpslimit is not None else None,
            )
        return found

    def _shared(self, argument: str, backend: ExtendedBackend) -> ExtendedBackend:
        """``backend``, or the one that is open for the same place already: each holds a folder or a connection open,
        and a shell names thousands of files."""
        url = backend.url if "://" not in argument or not {"?", "@"} & set(argument) else None
        known = None if url is None else self._places.get(url)
        if known is not None and type(known) is type(backend):
            if known is not backend:
                backend.close()
            return known
        self._opened.append(backend)
        if url is not None:
            self._places[url] = backend
        return backend

    def between(self) -> None:
        """Called between two arguments, when no backend is in use: release them if they have become many."""
        if len(self._opened) > MAX_OPENED:
            self._close_all()

    def _backend(self, name: str) -> ExtendedBackend:
        """The backend of a configured name: a store's folder of one, or all of one."""
        from omnistorage.config import RegistryConfig
        from omnistorage.core.spelling import nearest
        from omnistorage.ops import extended
        from omnistorage.store.registry import open_configured
        from omnistorage.wrappers import Prefix, ReadOnly

        if self._configured is None:
            file = self.config_file()[0]
            try:
                self._configured = RegistryConfig.from_file(file, env=True)
            except ConfigError as error:
                error.args = (f"{error.args[0]} (for a file whose name has a colon write ./{name}:...)",)
                raise
            self.detail(f"configuration: {file}")
        if name in self._named:
            return self._named[name]
        stores, backends = self._configured.stores, self._configured.backends
        if name not in stores and name not in backends:
            raise ConfigError(
                f"the configuration has no backend or store {name!r}{nearest(name, {**backends, **stores})}"
            )
        profile = stores.get(name)
        of = name if profile is None else profile.backend
        if of in self._making:
            raise ConfigError(f"the tier {name!r} leads back to itself")

        def named(tier: str) -> ExtendedBackend | None:
            self._making.append(of)
            try:
                return self._backend(tier) if tier in stores or tier in backends else None
            finally:
                self._making.pop()

        backend: Backend = open_configured(backends[of], named, defaults=self.defaults)
        self._opened.append(extended(backend))
        if profile is not None and profile.options.get("read_only"):
            backend = ReadOnly(backend)
        if profile is not None and profile.root_path.rstrip("/") not in ("", "."):
            backend = Prefix(backend, profile.root_path)
        self._named[name] = extended(backend)
        return self._named[name]

    def config_file(self) -> tuple[str, str]:
        """The configuration file, and who says that it is the one."""
        named = os.environ.get("OMNISTORAGE_CONFIG")
        if self.config or named:
            return (self.config, "--config") if self.config else (str(named), "$OMNISTORAGE_CONFIG")
        return default_config(), "the default"

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take down the display and release every backend."""
        self.meter.stop()
        self._close_all()

    def _close_all(self) -> None:
        self._places.clear()
        self._named.clear()
        while self._opened:
            try:
                self._opened.pop().close()
            except StorageError as error:
                self.failed(error)

    def finish(self, code: int) -> int:
        """The last line of ``--json``; returns the exit code of the run, in which ``code`` has the last word."""
        code = code or combined(set(self._failures))
        if FATAL in self._failures:
            code = FATAL
        self.event(
            "summary",
            verb=self.verb,
            done=self.done,
            failed=len(self._failures),
            bytes=self.meter.bytes,
            records=self.meter.records,
            seconds=round(self.meter.seconds, 3),
            exit_code=code,
        )
        if self._log is not None:
            self._log.close()
            self._log = None
        return code


def default_config() -> str:
    """Where the configuration is looked for when nothing else says so."""
    return os.path.expanduser("~/.config/omnistorage/config.toml")
