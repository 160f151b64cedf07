"""What `bench log` is to show, and whether a run shows it.

Flat is what rises by at most a quarter from the smallest size to the largest, by the straight line that
fits the medians best, each size one step from the one before. A line uses every point, where two ends
alone would be two noisy ones; a cost that rises only at the last size lifts it as much. Turns scatter by
some 7 %, so that the line's rise over medians of five scatters by 5: a flat cost does not reach a quarter
by chance, and one that is proportional to what it is measured over is far beyond it at the largest size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

MOST_MEMORY = 1.10
"""Memory to verify the longest log over that for the shortest: memory is not noisy."""
LEAST_VERIFY = 0.5
"""Events per second that `audit verify` reads and verifies, over a bare read decoded."""
MOST_RISE = 0.25
"""By how much the cost of a command may rise from the smallest size to the largest."""
LEAST_ROUNDS = 3
"""With fewer, what is timed is told and not judged: it is one noisy turn."""
FIGURES = {"p50_ms": "one at a time", "micros": "many in flight"}
"""What a command's cost is, by its name in the results."""


class Judgement(NamedTuple):
    """One thing that is to be so: what, what was found, and whether that passes (None: not judged)."""

    what: str
    found: str
    passes: bool | None

    @property
    def verdict(self) -> str:
        """As people read it."""
        return "not judged" if self.passes is None else "passes" if self.passes else "fails"


def rise(costs: Sequence[float]) -> float:
    """By what share the line of least squares through `costs`, one step apart, rises from first to last."""
    middle, mean = (len(costs) - 1) / 2, sum(costs) / len(costs)
    steps = [index - middle for index in range(len(costs))]
    slope = sum(step * cost for step, cost in zip(steps, costs, strict=True)) / sum(step**2 for step in steps)
    return 2 * middle * slope / (mean - middle * slope)


def judge(result: dict[str, Any]) -> list[Judgement]:
    """Everything that a run of `bench log` is to show."""
    peaks = [point["mib"] for point in result["verify_memory"].values()]
    timed = result["rounds"] >= LEAST_ROUNDS
    ratio = result["ratios"]["verify ÷ xrange decoded"]
    found = [
        Judgement(
            f"memory to verify, longest ÷ shortest log: at most {MOST_MEMORY:.2f}",
            f"{peaks[-1] / peaks[0]:.2f}",
            peaks[-1] <= peaks[0] * MOST_MEMORY,
        ),
        Judgement(
            f"`audit verify` ÷ bare read decoded: at least {LEAST_VERIFY:.2f}",
            f"{ratio:.2f}",
            ratio >= LEAST_VERIFY if timed else None,
        ),
    ]
    for what, points in result["growth"].items():
        sizes = list(points)
        for figure, name in FIGURES.items():
            risen = rise([point[figure] for point in points.values()])
            found.append(
                Judgement(
                    f"cost over {int(sizes[0]):,} to {int(sizes[-1]):,} {what}, {name}: "
                    f"at most {MOST_RISE:+.0%}",
                    f"{risen:+.0%}",
                    risen <= MOST_RISE if timed else None,
                )
            )
    return found
