"""Where the memory of the ingest process comes from."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_ARENA_MAX = -8
"""Of glibc's mallopt(3)."""
HEAPS = 2
"""In a single one it takes longer to find room."""


def share_heaps() -> None:
    """Have all threads of this process share HEAPS heaps.

    glibc gives them up to eight for each processor, and what hundreds of threads let go of leaves holes in
    all of them. Other C libraries have one anyway: there this does nothing.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, HEAPS)
