"""How many answers are enough."""

from __future__ import annotations

from omnistorage.errors import ConfigError


class Quorum:
    """Counts outcomes of a fan-out against the number of *configured* targets. ``met``: enough have succeeded;
    ``lost``: it can no longer be met, however the rest ends. Each target counts once; a failure is final."""

    def __init__(self, needed: int, of: int) -> None:
        if not 1 <= needed <= of:
            raise ConfigError(f"a quorum of {needed} among {of} targets cannot be")
        self.needed = needed
        self.of = of
        self._outcomes: dict[int, bool] = {}

    def note(self, target: int, ok: bool) -> None:
        """Target number ``target`` (from 0) succeeded or failed. A success can still turn into a failure."""
        if not 0 <= target < self.of:
            raise ConfigError(f"there is no target {target} among {self.of}")
        self._outcomes[target] = ok and self._outcomes.get(target, True)

    @property
    def met(self) -> bool:
        return sum(self._outcomes.values()) >= self.needed

    @property
    def lost(self) -> bool:
        return self.of - sum(not ok for ok in self._outcomes.values()) < self.needed
