"""A command that was set aside: what an append keeps of it in `{LANE}:parked`."""

from __future__ import annotations

import msgspec


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A command that is set aside as it came, with why; kept until it is retried or dropped."""

    id: str
    raw: bytes
    signature: str
    why: str
    deliveries: int
