"""What a plan counts while it is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from omnistorage.errors import StorageError

KEPT_ERRORS = 1_000


@dataclass
class Seen:
    """What a plan saw, counted while it is read."""

    source_objects: int = 0
    source_bytes: int = 0
    destination_objects: int = 0
    equal: int = 0
    by_size_and_time: int = 0  # of those: the content was not compared, though the rule asks for it
    filtered: int = 0
    blocked: int = 0  # deletions not planned, as the source's folder could not be listed
    complete: bool = False  # both listings came to their end without an error
    listing_errors: list[StorageError] = field(default_factory=list)  # one for each folder
    broken: StorageError | None = None  # what ended a listing early; the plan ends with an error action that says so
    warnings: list[str] = field(default_factory=list)

    def note(self, error: StorageError) -> None:
        if len(self.listing_errors) < KEPT_ERRORS:
            self.listing_errors.append(error)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
