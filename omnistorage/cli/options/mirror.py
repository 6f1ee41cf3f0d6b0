"""``omnistorage write`` with several ``--to``: one stream into all of them.

Targets have names, which the journal knows them by; people are told what they typed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import click

from omnistorage.cli.core.app import App, Location
from omnistorage.core import ExtendedBackend
from omnistorage.core.secret import mask_url
from omnistorage.errors import MultiError, StorageError
from omnistorage.multi import MultiBackend, Outcome, Target
from omnistorage.wrappers import Prefix

from .param_types import DURATION

MIRRORING = ("mode", "quorum", "journal", "laggard_timeout")
_NAMED = re.compile(r"(?<=target |argets |.. and |one in )'([A-Za-z0-9_-]+)'")
_NOTE = re.compile(r"in target '([A-Za-z0-9_-]+)'")


def mirror_options(command: Any) -> Any:
    """The options of ``MultiBackend``, under its names."""
    for option in reversed(
        (
            click.option(
                "--mode", type=click.Choice(["all", "quorum", "best_effort"]), help="How many --to must have it [all]."
            ),
            click.option("--quorum", type=click.IntRange(1), metavar="N", help="... N of them [more than half]."),
            click.option("--journal", metavar="PLACE", help="Note there who missed what, for the next run to bring."),
            click.option("--laggard-timeout", type=DURATION, metavar="TIME", help="Give up who holds up the others."),
        )
    ):
        command = option(command)
    return command


class Mirror:
    """Several places as one."""

    def __init__(self, app: App, places: Sequence[str], options: Mapping[str, Any]) -> None:
        if options.get("mode", "all") != "all" and "journal" not in options:
            raise click.UsageError("targets may miss something in this mode: --journal PLACE says where that is noted")
        if "quorum" in options and options.get("mode") != "quorum":
            raise click.UsageError("--quorum is for --mode quorum")
        found = [app.locate(place, is_object=False) for place in places]
        journal = options.get("journal")
        self._app = app
        self._targets = dict(zip(_names(found), _told_apart(found), strict=True))
        try:
            self.backend = MultiBackend(
                [Target(name, _at(place)) for name, place in self._targets.items()],
                options.get("mode", "all"),
                options.get("quorum"),
                journal=None if journal is None else _at(app.locate(journal, is_object=False, private=True)),
                laggard_timeout=options.get("laggard_timeout"),
            )
        except StorageError as error:
            self._say_where(error)
            raise
        self.location = Location(self.backend, "", "{" + ", ".join(map(self._shown, self._targets)) + "}")

    def __enter__(self) -> Self:
        """Bring what earlier runs left out."""
        if self.backend.journal is None or not self.backend.journal.load():
            return self
        try:
            done = self.backend.repair()
        except StorageError as error:
            self._say_where(error)
            self._app.warn(f"what earlier runs left out is still to be brought: {error}")
        else:
            if done.paths:
                self._app.say(f"brought what earlier runs left out: {_objects(len(done.paths))}")
            for _, cause in done.waiting:
                if (name := _target_of(cause)) is not None:
                    self.backend.causes[name] = _what(cause)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Say who misses what, and of an error whose it is."""
        if isinstance(error, StorageError):
            self._blame(error)
        if self.backend.journal is None:
            return
        missed = Counter(
            (name, self._shown(name, url))
            for entry in self.backend.journal.load()
            for name, url in {*zip(entry.among, entry.urls, strict=False)}
            if name in entry.targets
        )
        for (name, text), count in sorted(missed.items()):
            why = self.backend.causes.get(name)
            bring = f"the next run with this --journal brings {'it' if count == 1 else 'them'}"
            self._app.warn(f"{text} misses {_objects(count)}{f' ({why})' if why else ''}: {bring}")
            self._app.event("missed", target=name, to=text, objects=count, why=why and mask_url(why))

    # -- whose it is ---------------------------------------------------------------------------------------------------

    def _shown(self, name: str, url: str | None = None) -> str:
        """What was typed for a target; ``url`` or the name of one that the journal alone knows."""
        place = self._targets.get(name)
        if place is None or url not in (None, _at(place).url):
            return url or name
        return place.text

    def _say_where(self, error: StorageError) -> None:
        """Names of targets in an error become what was typed."""

        def typed(match: re.Match[str]) -> str:
            return self._shown(match[1]) if match[1] in self._targets else match[0]

        if error.args:
            error.args = (_NAMED.sub(typed, str(error.args[0])), *error.args[1:])

    def _blame(self, error: StorageError) -> None:
        """Make an error of a change name the target, or all that failed."""
        if not str(getattr(error, "shown", self.location.text)).startswith(self.location.text):
            return  # it is the input's
        if isinstance(error, MultiError) and error.outcomes:
            error.args = (self._all_of(error), *error.args[1:])
            return
        place = self._targets.get(_target_of(error) or "")
        if place is not None:
            error.shown = place.child(error.path).text if error.path else place.text  # type: ignore[attr-defined]
        notes = [note for note in getattr(error, "__notes__", ()) if not _NOTE.fullmatch(note)]
        error.args = ("; ".join([_what(error), *notes]), *error.args[1:])
        self._say_where(error)

    def _all_of(self, error: MultiError) -> str:
        outcomes: Sequence[Outcome] = error.outcomes
        done = [self._shown(one.target) for one in outcomes if one.state == "committed"]
        failed = [
            f"{self._shown(one.target)}: {_what(one.error)}{', and may have it' * (one.state == 'unknown')}"
            for one in outcomes
            if isinstance(one.error, Exception)
        ]
        head = f"published in {', '.join(done)}, " if done else ""
        return f"{head}{self.backend.needed} of {len(outcomes)} were needed: {'; '.join(failed)}"


def _target_of(error: BaseException) -> str | None:
    """The target that the error has a note of, the outermost one."""
    found = [match[1] for note in getattr(error, "__notes__", ()) if (match := _NOTE.fullmatch(note))]
    return found[-1] if found else None


def _what(error: BaseException) -> str:
    return str(error.args[0]) if error.args else type(error).__name__


def _objects(count: int) -> str:
    return f"{count:,} object{'s' * (count != 1)}"


def _at(place: Location) -> ExtendedBackend:
    found: ExtendedBackend = Prefix(place.backend, place.path) if place.path else place.backend
    return found


def _told_apart(places: Sequence[Location]) -> list[Location]:
    """Without the options of URLs, if no two look the same then."""
    texts = [place.text.partition("?")[0] if "://" in place.text else place.text for place in places]
    if len(set(texts)) < len(texts):
        return list(places)
    return [replace(place, text=text) for place, text in zip(places, texts, strict=True)]


def _names(places: Sequence[Location]) -> list[str]:
    """By kind, with a number where there are several, in the order in which they were given."""
    kinds = [place.backend.name for place in places]
    seen: Counter[str] = Counter()
    names = []
    for kind in kinds:
        seen[kind] += 1
        names.append(kind if seen[kind] == 1 else f"{kind}-{seen[kind]}")
    return names
