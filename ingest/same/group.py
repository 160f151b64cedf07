"""The bursts of one message: which belong together, what they say, and whether that is certain enough."""

from __future__ import annotations

import msgspec
import numpy as np

from ingest.same.burst import Burst
from ingest.same.reading import Reading, characters, overrated, read, together

TWO, THREE = 0.999, 0.96
"""Certainty asked of two bursts and of three before what they say together is a message."""
AGREED = 0.99
"""Certainty asked where two bursts say the same by themselves."""
CLEAR = 0.9
"""Certainty from which a burst is taken at its word."""
SLIPS = 4
"""Characters that clear bursts of one message may have different: codecs do that."""
PARTED = 10.0
"""Nats by which it must be likelier that a burst says something else."""


class Group:
    """What was heard of one message so far."""

    def __init__(self, first: Burst, before: str = "") -> None:
        self.bursts = [first]
        self._before = before
        """The header told before, if a burst of it may yet have been to come; else empty."""
        self.told = ""
        """The header that was reported as a message; empty before."""
        self._reading = first.reading

    def takes(self, burst: Burst) -> bool:
        """Whether this burst says the same; then it is added."""
        if any(burst.solid and each.solid and burst.text == each.text for each in self.bursts):
            self._add(burst, self._together(burst))
            return True
        joint = self._together(burst)
        if len(self.bursts) == 1 and not self.told and _alike(burst.text, self.bursts[0].text):
            # Which of them is right, the third will say.
            self._add(burst, joint)
            return True
        if self._differs(burst):
            return False
        if joint.evidence + PARTED < self._reading.evidence + burst.reading.evidence:
            return False
        self._add(burst, joint)
        return True

    def _differs(self, burst: Burst) -> bool:
        """Both this burst and those before are beyond doubt, and do not say the same."""
        clear = min(burst.reading.confidence, self._reading.confidence) > CLEAR
        solid = burst.solid and any(each.solid for each in self.bursts)
        return clear and solid and all(burst.text != each.text for each in self.bursts)

    @property
    def header(self) -> tuple[str, float]:
        """What the bursts say, and how certain that is."""
        solid = [each.text for each in self.bursts if each.solid]
        for text in solid:
            if solid.count(text) >= 2 or len(self.bursts) == 1:
                sure = self._reading.confidence if text == self._reading.text else 0.0
                return text, max(sure, AGREED if len(solid) >= 2 else self.bursts[0].reading.confidence)
        return self._reading.text, self._reading.confidence

    @property
    def agreed(self) -> bool:
        """Two bursts say by themselves what all say together."""
        text, _ = self.header
        return sum(each.text == text for each in self.bursts) >= 2

    @property
    def enough(self) -> bool:
        """It is a message although no further burst came."""
        return len(self.bursts) >= 2 and self.header[1] >= THREE

    @property
    def repeated(self) -> bool:
        """It is but one burst, the third of the message before, with another character here or there."""
        return len(self.bursts) == 1 and _alike(self.header[0], self._before)

    @property
    def certain(self) -> bool:
        """It is a message."""
        if len(self.bursts) < 2:
            return False
        _, confidence = self.header
        if self.agreed:
            return confidence >= AGREED
        return confidence >= (TWO if len(self.bursts) == 2 else THREE)

    def _add(self, burst: Burst, joint: Reading) -> None:
        self.bursts.append(burst)
        self._reading = joint

    def _together(self, burst: Burst) -> Reading:
        bursts = [*self.bursts, burst]
        lengths = np.sum([np.maximum(each.lengths, -200.0) for each in bursts], axis=0)
        reading = read(together([each.rows for each in bursts]), lengths, len(bursts))
        factor = overrated(reading.text, [each.bits for each in bursts])
        if factor == 1.0:
            return reading
        weaker = read(together([characters(factor * each.bits) for each in bursts]), lengths, len(bursts))
        return msgspec.structs.replace(weaker, evidence=reading.evidence)


def _alike(text: str, other: str) -> bool:
    differing = sum(one != two for one, two in zip(text, other, strict=False))
    return len(text) == len(other) and differing <= SLIPS
