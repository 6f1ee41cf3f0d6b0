"""``omnistorage write`` with several ``--to``: one stream into all of them. Imports multi and wrappers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import click

from ..core import ExtendedBackend
from ..errors import StorageError
from ..multi import MultiBackend, Target
from ..wrappers import Prefix
from .app import App, Location
from .specs import DURATION

MIRRORING = ("mode", "quorum", "journal", "laggard_timeout")


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
        self.backend = MultiBackend(
            [Target(name, _at(place)) for name, place in zip(_names(found), found, strict=True)],
            options.get("mode", "all"),
            options.get("quorum"),
            journal=None if journal is None else _at(app.locate(journal, is_object=False)),
            laggard_timeout=options.get("laggard_timeout"),
        )
        self.location = Location(self.backend, "", "{" + ", ".join(place.text for place in found) + "}")

    def __enter__(self) -> Self:
        """Bring what earlier runs left out."""
        if self.backend.journal is None or not self.backend.journal.load():
            return self
        try:
            done = self.backend.repair()
        except StorageError as error:
            self._app.warn(f"what earlier runs left out is still to be brought: {error}")
        else:
            if done.paths:
                self._app.say(f"brought what earlier runs left out: {len(done.paths):,} objects")
        return self

    def __exit__(self, *exc: object) -> None:
        """Say who misses what."""
        if self.backend.journal is None:
            return
        missed = Counter(name for entry in self.backend.journal.load() for name in set(entry.targets))
        for name, count in sorted(missed.items()):
            self._app.warn(f"{name} misses {count:,} objects: the next run with this --journal brings them")
            self._app.event("missed", target=name, objects=count)


def _at(place: Location) -> ExtendedBackend:
    found: ExtendedBackend = Prefix(place.backend, place.path) if place.path else place.backend
    return found


def _names(places: Sequence[Location]) -> list[str]:
    """By kind, with a number where there are several, in the order in which they were given."""
    kinds = [place.backend.name for place in places]
    seen: Counter[str] = Counter()
    names = []
    for kind in kinds:
        seen[kind] += 1
        names.append(kind if seen[kind] == 1 else f"{kind}-{seen[kind]}")
    return names
