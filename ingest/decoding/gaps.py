"""What is missing between the packets of a stream that nobody sends again, by the times that they tell."""

from __future__ import annotations

LONGEST = 60.0
"""Seconds: a longer step is a sender that began anew, not a loss."""


class Gaps:
    """Follows one stream's frames. `seconds` are those that are missing so far."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._expected: float | None = None

    def seen(self, begin: float, length: float) -> bool:
        """Take a frame's time and length in seconds; whether something is missing before it."""
        missing = 0.0 if self._expected is None else begin - self._expected
        self._expected = begin + length
        # Times are rounded; less than half a frame is not missing.
        if not length / 2 < missing <= LONGEST:
            return False
        self.seconds += missing
        return True
