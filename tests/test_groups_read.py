"""Groups as Postgres has them: folded from the log."""

from __future__ import annotations

from projections.folds.groups import GroupRow
from projections.projection import GROUPS, fold_all
from tests.fix_projections import Chain


def test_a_group_is_folded_from_its_events() -> None:
    """Made, switched and removed; a switch of a group that is not there makes none."""
    chain = Chain()
    chain.event("group.switched", group="gone", to="a", reason="it is heard")
    chain.event(
        "group.created", group="news", members=["a", "b"], name="News", fallback_after=20.0, back_after=60.0
    )
    switched = chain.event("group.switched", group="news", to="a", reason="it is heard")
    rows = fold_all(GROUPS, {}, chain.events)
    assert rows["gone"] is None
    row = rows["news"]
    assert isinstance(row, GroupRow)
    assert (row.members, row.active, row.reason) == (["a", "b"], "a", "it is heard")
    assert (row.fallback_after, row.since) == (20.0, switched.event.at)
    chain.event("group.removed", group="news")
    assert fold_all(GROUPS, {}, chain.events)["news"] is None
