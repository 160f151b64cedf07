"""The Redis Cluster: whether its primaries agree, and every slot is served."""

from __future__ import annotations

from control.checks.finding import Finding, ok, trouble, warning
from streams.cluster import SLOTS, look
from streams.faults import FAULTS
from streams.settings import RedisSection


def cluster(section: RedisSection) -> Finding:
    """How many primaries say how they see the cluster, and what they see."""
    found = look(section)
    silent = "; ".join(f"{node}: {error}" for node, error in sorted(found.silent.items()))
    told = f"{len(found.views)} of {len(found.primaries)} primaries answer{f' ({silent})' if silent else ''}"
    if not found.primaries:
        next = "start or mend these, or name other nodes in redis.cluster: they tell of all the others"
        return trouble("cluster", f"no node tells of the cluster ({silent})", next)
    if not found.settled:
        return trouble("cluster", told, FAULTS["NOMAJORITY"].next)
    if found.uncovered:
        next = "give them to a primary: CLUSTER ADDSLOTSRANGE; lanes that lie there stand still"
        return trouble("cluster", f"{told}; {found.uncovered} of {SLOTS} slots are nobody's", next)
    if found.failed:
        failed = ", ".join(sorted(map(str, found.failed)))
        return warning("cluster", f"{told}; failed: {failed}", FAULTS["ELECTING"].next)
    if len(found.views) < len(found.primaries) or silent:
        return warning("cluster", told, "start those missing: one more lost may be too many")
    return ok("cluster", f"{told} and serve all slots")
