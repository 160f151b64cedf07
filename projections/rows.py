"""Rows of Postgres as structs: the columns are asked for by the struct's fields, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Table

Kind = TypeVar("Kind")


def columns(table: Table, kind: type[Any]) -> list[ColumnElement[Any]]:
    """The columns that `kind` has a field for."""
    return [table.c[name] for name in _names(table, kind)]


def structs(table: Table, kind: type[Kind], rows: Sequence[Sequence[Any]]) -> list[Kind]:
    """Each of `rows`, selected by `columns`, as a `kind`; fields without a column keep their default."""
    names = _names(table, kind)
    return [kind(**dict(zip(names, row, strict=True))) for row in rows]


def _names(table: Table, kind: type[Any]) -> list[str]:
    return [name for name in kind.__struct_fields__ if name in table.c]
