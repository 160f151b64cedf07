"""Named steps on the way of a command and of an event.

They do nothing, unless somebody watches: a test does, to end its process at each of them and
show that no crash makes a difference.
"""

from __future__ import annotations

from collections.abc import Callable

watch: Callable[[str], None] | None = None
"""Called at each step with its name, by the thread that takes it."""


def step(name: str) -> None:
    """Pass the named step; the name is said literally, so that a list of all can be read off the code."""
    if watch is not None:
        watch(name)
