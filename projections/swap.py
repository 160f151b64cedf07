"""Tables beside the live ones, and the moment in which they take their place.

The new table is made from the same description as the live one, without its indexes: they are built
once it is full. In the swap the names change hands, so a reader sees all of the old rows, or all of the new.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, Index, MetaData, Table, delete, func, inspect, text, update
from sqlalchemy.schema import CreateIndex
from sqlalchemy.sql import quoted_name

from projections.projection import Projection
from projections.tables import poisoned, positions, rebuild_positions
from streams.tail import Position

NEXT = "__next"
"""What stands behind the name of a table that is being made, and of the projection that fills it."""


def beside(projection: Projection) -> Projection:
    """The same projection with a table, and a name for what its fold cannot take, of its own."""
    return msgspec.structs.replace(
        projection, name=projection.name + NEXT, table=_copy(projection.table, indexes=False)
    )


def _copy(table: Table, *, indexes: bool) -> Table:
    copy = table.to_metadata(MetaData(), name=table.name + NEXT)
    if not indexes:
        copy.indexes.clear()
    return copy


def begin(connection: Connection, projection: Projection) -> None:
    """An empty table beside the live one, whatever an earlier attempt has left."""
    drop(connection, projection)
    beside(projection).table.create(connection)


def drop(connection: Connection, projection: Projection) -> None:
    """Take away what a rebuild has made so far."""
    connection.execute(text(f'DROP TABLE IF EXISTS "{projection.table.name}{NEXT}"'))
    name = projection.name + NEXT
    connection.execute(delete(poisoned).where(poisoned.c.projection == name))
    connection.execute(delete(rebuild_positions).where(rebuild_positions.c.projection == projection.name))


def exists(connection: Connection, projection: Projection) -> bool:
    """Whether an earlier attempt has left a table to go on with."""
    return inspect(connection).has_table(projection.table.name + NEXT)


def index(connection: Connection, projection: Projection) -> None:
    """Build the indexes that readers need, and count the rows for the planner."""
    copy = _copy(projection.table, indexes=True)
    for one in sorted(copy.indexes, key=_name):
        one.name = quoted_name(_name(one) + NEXT, quote=None)
        connection.execute(CreateIndex(one, if_not_exists=True))
    connection.execute(text(f'ANALYZE "{copy.name}"'))


def swap(connection: Connection, projection: Projection, lanes: dict[str, Position]) -> None:
    """Put the new table in the place of the live one, and the positions that its rows belong to.

    The caller holds the projection's positions locked, so no runner writes meanwhile. Readers wait for a
    moment: those that are reading hold the swap up, until the caller's lock timeout.
    """
    live, name = projection.table.name, projection.name
    new = live + NEXT
    # An operator may have let others read it, say a dashboard's user.
    for grant in connection.execute(_GRANTS, {"live": live}).scalars().all():
        connection.execute(text(grant.replace("@", f'"{new}"', 1)))
    connection.execute(text(f'DROP TABLE "{live}"'))
    connection.execute(text(f'ALTER TABLE "{new}" RENAME TO "{live}"'))
    connection.execute(text(f'ALTER INDEX "{new}_pkey" RENAME TO "{live}_pkey"'))
    for one in projection.table.indexes:
        connection.execute(text(f'ALTER INDEX "{_name(one)}{NEXT}" RENAME TO "{_name(one)}"'))
    connection.execute(delete(poisoned).where(poisoned.c.projection == name))
    connection.execute(update(poisoned).where(poisoned.c.projection == name + NEXT).values(projection=name))
    connection.execute(delete(rebuild_positions).where(rebuild_positions.c.projection == name))
    for lane, at in sorted(lanes.items()):
        connection.execute(
            update(positions)
            .where(positions.c.projection == name, positions.c.lane == lane)
            .values(
                version=projection.version,
                seq=at.seq,
                hash=at.hash,
                updated_at=func.now(),
                trouble=None,
                failure=None,
            )
        )


_GRANTS = text(
    "SELECT format('GRANT %s ON @ TO %s', acl.privilege_type,"
    " CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END)"
    " FROM pg_class, aclexplode(relacl) AS acl"
    " WHERE pg_class.oid = to_regclass(quote_ident(:live)) AND acl.grantee <> relowner"
)


def _name(one: Index) -> str:
    return str(one.name)
