"""Stretches of a film that could not be read: film time between readable frames, found from frames and packets."""

from dataclasses import dataclass, field
from fractions import Fraction

# Decoders complain up to so many frames before the frames that are lost: those in between wait for their turn.
_COMPLAINT_FRAMES = 40
# A pause between two frames that no decoder complained of counts as lost if it is longer than this…
_MIN_SILENT_FRAMES, _MIN_SILENT_SECONDS = 10, 1
# …and if at most one in so many frames is early or late. In a film of variable frame rate, pauses are no losses.
_REGULAR_FRAMES = 100
_MAX_NAMED = 5


@dataclass
class Damage:
    """Holes of a film, collected while its frames pass. Times are ticks after the first readable frame.

    Args:
        time_base: seconds of a tick.
        period: ticks of a frame at the film's frame rate.
    """

    time_base: Fraction
    period: int
    holes: list[tuple[int, int]] = field(default_factory=list)
    end: int = 0
    # Ticks before the first frame: unreadable ones, and those of a recording that begins between two key frames.
    broken_start: int = 0
    early_start: int = 0
    _pauses: list[tuple[int, int]] = field(default_factory=list)
    _last_complaint: int | None = None
    _num_frames: int = 0
    _num_irregular: int = 0

    def lose(self) -> None:
        """A packet or a frame cannot be read."""
        self._last_complaint = self._num_frames

    @property
    def _is_lost(self) -> bool:
        return self._last_complaint is not None and self._num_frames - self._last_complaint <= _COMPLAINT_FRAMES

    def keep(self, ticks: int, duration: int) -> None:
        """A frame is readable and shown for a duration."""
        gap = ticks - self.end
        if self._num_frames and abs(gap) > self.period / 2:
            self._num_irregular += 1
            if self._is_lost and gap > 0:
                self._last_complaint = self._num_frames
                self.holes.append((self.end, ticks))
            elif gap > _MIN_SILENT_FRAMES * self.period and gap * self.time_base > _MIN_SILENT_SECONDS:
                self._pauses.append((self.end, ticks))
        self._num_frames += 1
        self.end = ticks + duration

    def finish(self, last_packet: int, announced: int) -> None:
        """The film is over.

        Args:
            last_packet: end of the last packet, in ticks.
            announced: end of the film by its container, in ticks; 0 if it is unknown.
        """
        if self._num_irregular * _REGULAR_FRAMES <= self._num_frames + _REGULAR_FRAMES:
            self.holes = sorted(self.holes + self._pauses)
        end = max(announced, last_packet if self._is_lost else 0)
        if end - self.end > self.period / 2:
            self.holes.append((self.end, end))
            self.end = end

    @property
    def readable(self) -> float:
        """Share of the film that was read. A recording that begins between two key frames loses nothing by that."""
        lost = self.broken_start + sum(stop - start for start, stop in self.holes)
        return 1 - lost / max(1, self.broken_start + self.end)

    def describe(self, start_seconds: Fraction) -> str | None:
        """One line that names the holes; None if there are none.

        Args:
            start_seconds: film time of the first readable frame.
        """

        def seconds(ticks: int) -> float:
            return float(start_seconds + ticks * self.time_base)

        reasons = []
        if self.early_start:
            length = float(self.early_start * self.time_base)
            reasons.append(f"the first {length:.2f} s come before the first key frame")
        holes = [(-self.broken_start, 0)] * bool(self.broken_start) + self.holes
        if holes:
            lost = float(sum(stop - start for start, stop in holes) * self.time_base)
            whole = float((self.broken_start + self.end) * self.time_base)
            named = ", ".join(f"{seconds(start):.2f}–{seconds(stop):.2f} s" for start, stop in holes[:_MAX_NAMED])
            more = f" and {len(holes) - _MAX_NAMED} more" * (len(holes) > _MAX_NAMED)
            reasons.append(f"{lost:.2f} of {whole:.2f} s cannot be read: {named}{more}")
        return "damaged: " + "; ".join(reasons) if reasons else None
