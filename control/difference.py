"""What differs between two states of the read model. Pure."""

from __future__ import annotations

from typing import Any

State = dict[str, Any]
PASSING = frozenset({"seq", "hash", "updated_at"})
"""Fields that say which event changed a source last; they are no change of their own."""


def difference(before: State, after: State) -> dict[str, Any]:
    """Sources that came, went and changed; the latest commands that had their result between; counts."""
    was = {(one["lane"], one["id"]): one for one in before["sources"]}
    is_ = {(one["lane"], one["id"]): one for one in after["sources"]}
    changed = []
    for key in sorted(was.keys() & is_.keys()):
        fields = {
            name: [was[key][name], value]
            for name, value in is_[key].items()
            if name not in PASSING and was[key][name] != value
        }
        if fields:
            changed.append({"id": key[1], "lane": key[0], "fields": fields})
    counted = {(one["type"], one["outcome"]): one["count"] for one in before["totals"]}
    totals = [
        {**one, "count": one["count"] - counted.get((one["type"], one["outcome"]), 0)}
        for one in after["totals"]
    ]
    behind = {lane: at["seq"] for lane, at in before["lanes"].items()}
    return {
        "sources": {
            "added": [is_[key] for key in sorted(is_.keys() - was.keys())],
            "removed": [was[key] for key in sorted(was.keys() - is_.keys())],
            "changed": changed,
        },
        "commands": [one for one in after["commands"] if one["seq"] > behind.get(one["lane"], 0)],
        "totals": [one for one in totals if one["count"]],
    }
