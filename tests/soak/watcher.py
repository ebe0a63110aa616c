"""What must hold of a study all the time, whatever fails: decided from readings alone."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

HEALED_S: Final = 60.0
"""From the last fault until all workers that are wanted are ready."""


@dataclass(frozen=True)
class Reading:
    """A study at one moment."""

    study: str
    """Its name, and what tells it from one of the same name that was deleted."""
    finished: int
    """COMPLETE, PRUNED and FAIL, lost ones too."""
    counted: int
    running: int
    budget: int
    ownerless: Collection[int] = ()
    """Numbers of trials that run without a worker that lives."""
    size: int = 0
    """Of the Study object, in bytes; 0 where there is none."""


@dataclass
class Watcher:
    """Compares each reading with those before it; remembers what was broken."""

    ownerless_s: float
    """For so long a trial may be RUNNING without its worker, while the storage is there."""
    most_bytes: int = 16 * 1024
    violations: list[str] = field(default_factory=list)
    readings: int = 0
    longest_ownerless_s: float = 0.0
    longest_healing_s: float = 0.0
    _last: dict[str, Reading] = field(default_factory=dict)
    _since: dict[tuple[str, int], float] = field(default_factory=dict)
    _troubled_at: float = 0.0

    def trouble(self, now: float) -> None:
        """Hear that something is broken now: nobody can look after lost workers."""
        self._troubled_at = now

    def look(self, reading: Reading, now: float) -> None:
        """Take a reading; the study's trials are compared with the last one's."""
        self.readings += 1
        last = self._last.get(reading.study)
        self._last[reading.study] = reading
        if last is not None and reading.finished < last.finished:
            self._violate(reading, f"{last.finished} trials were finished, now {reading.finished}")
        used, before = (0 if one is None else one.counted + one.running for one in (reading, last))
        # A budget that was made smaller stops nothing that runs.
        if used > max(reading.budget, before):
            self._violate(reading, f"{used} trials count or run, of a budget of {reading.budget}")
        if reading.size >= self.most_bytes:
            self._violate(reading, f"the object has {reading.size} bytes")
        self._look_for_owners(reading, now)

    def _look_for_owners(self, reading: Reading, now: float) -> None:
        known = {key for key in self._since if key[0] == reading.study}
        found = {(reading.study, number) for number in reading.ownerless}
        for key in known - found:
            del self._since[key]
        for key in found:
            since = max(self._since.setdefault(key, now), self._troubled_at)
            self.longest_ownerless_s = max(self.longest_ownerless_s, now - since)
            if now - since > self.ownerless_s:
                self._since[key] = now  # told once, and again if it lasts
                self._violate(reading, f"trial {key[1]} runs without a worker")

    def healed(self, desired: int, ready: int, after_s: float) -> bool:
        """Hear how many workers are ready some time after the last fault; return if all are."""
        if desired == ready:
            self.longest_healing_s = max(self.longest_healing_s, after_s)
            return True
        if after_s > HEALED_S:
            text = f"{ready} of {desired} workers are ready {after_s:.0f} s after the last fault"
            self.violations.append(text)
            return True
        return False

    def compare(self, acknowledged: Mapping[int, object], stored: Mapping[int, object]) -> None:
        """Compare what workers were told to be stored with what is, by the trials' numbers."""
        for number, told in acknowledged.items():
            found = stored.get(number)
            if found != told:
                self.violations.append(f"trial {number}: acknowledged {told}, stored {found}")

    def _violate(self, reading: Reading, text: str) -> None:
        self.violations.append(f"{reading.study}: {text}")
