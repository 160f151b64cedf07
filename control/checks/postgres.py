"""PostgreSQL: whether the primary answers, and whether its standbys follow."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
from psycopg.conninfo import conninfo_to_dict

from control.checks.finding import Finding, ok, trouble, warning
from streams import tls
from streams.settings import PostgresSection

CONNECT_TIMEOUT = 3
"""Seconds."""
OLDEST_POSTGRES = 15
FAR_BEHIND = 16 * 1024 * 1024
"""Bytes of log that a standby may lack before it is said: one segment."""

ANSWERS_WITHIN = 2.0
"""Seconds that a standby gets to put on its disk what is committed."""
LOOK_AGAIN = 0.1
"""Seconds between two looks at that."""

Connection = psycopg.Connection[tuple[object, ...]]

_NEXT = (
    (
        "password authentication failed",
        "compare postgres.password_file with the server's",
    ),
    ("no password supplied", "set postgres.password_file"),
    ("certificate verify failed", "postgres.ca_file must name the authority that signed its certificate"),
    ("does not support SSL", "turn TLS on there (ssl = on), or say sslmode in postgres.url"),
    ("no encryption", "that server takes encrypted connections only: set postgres.ca_file"),
    ("no pg_hba.conf entry", "let this host and user in: pg_hba.conf on the server"),
    ("does not exist", "create that database or user, or correct postgres.url"),
    ("starting up", "wait: it is reading its log"),
    ("too many", "raise max_connections, or find out who holds so many: pg_stat_activity"),
    ("read-only", "no host of postgres.url is a primary: promote a standby"),
)
"""What a refusal says, and what to do about it."""


def postgres(section: PostgresSection) -> Iterator[Finding]:
    """Whether PostgreSQL answers, is new enough, and has the standbys that the settings speak of."""
    part = "postgres"
    if not section.url:
        yield warning(part, "none is configured", "set postgres.url: pages and archive need it")
        return
    try:
        with connected(section, target_session_attrs="read-write") as connection:
            version = connection.info.server_version // 10000
            connection.execute("SELECT 1")
            if version < OLDEST_POSTGRES:
                yield trouble(part, f"version {version}", f"upgrade it to {OLDEST_POSTGRES} or newer")
                return
            yield ok(part, f"version {version}, primary at {connection.info.host}:{connection.info.port}")
            yield from _encryption(connection)
            yield from _standbys(connection, section)
    except psycopg.Error as error:
        yield _away(error)


def _away(error: psycopg.Error) -> Finding:
    told = " ".join(str(error).split()) or "no answer"
    next = next_for(told)
    return trouble("postgres", told, f"{next}; until then the pages show what was last known")


def next_for(told: str) -> str:
    """What to do about a connection that failed with these words."""
    return next((next for said, next in _NEXT if said in told), "start it, or mend the network")


def _encryption(connection: Connection) -> Iterator[Finding]:
    host = connection.info.host
    if not (connection.pgconn.ssl_in_use or host in tls.LOCAL or host.startswith("/")):
        yield warning(
            "postgres encryption",
            f"what is written travels unencrypted to {host}",
            "turn TLS on there (ssl = on), and set postgres.ca_file",
        )


def _standbys(primary: Connection, section: PostgresSection) -> Iterator[Finding]:
    """Whether standbys follow: those that commits wait for, and those that may be promoted."""
    part = "postgres standbys"
    (names,) = primary.execute("SHOW synchronous_standby_names").fetchone() or ("",)
    rows = primary.execute(
        "SELECT application_name, sync_state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)"
        " FROM pg_stat_replication AS reader WHERE NOT EXISTS"
        # A logical subscriber reads the log too, and cannot be promoted.
        " (SELECT FROM pg_replication_slots WHERE active_pid = reader.pid AND slot_type = 'logical')"
        " ORDER BY application_name"
    ).fetchall()
    waited_for = [row for row in rows if row[1] in ("sync", "quorum", None)]
    if names and not waited_for:
        yield trouble(
            part,
            f"commits wait for {names}, and none of them is connected",
            "start that standby, or take it off synchronous_standby_names: until then nothing is archived",
        )
    elif len(rows) < section.standbys:
        yield warning(
            part,
            f"{len(rows)} of {section.standbys} connected",
            "start the one that is missing: nothing could take the primary's place",
        )
    elif names and (hanging := _hanging(primary)):
        # Of several that may vouch for a commit one is enough, as a rule.
        said = trouble if len(hanging) == len(waited_for) else warning
        yield said(
            part,
            f"commits wait for {', '.join(hanging)}, which is connected and does not answer",
            "restart that standby, or take it off synchronous_standby_names: until then nothing is archived",
        )
    elif rows:
        yield ok(part, f"{len(rows)} connected: {', '.join(str(row[0]) for row in rows)}")
    for name, _, behind in rows:
        if behind is not None and int(str(behind)) > FAR_BEHIND:
            yield warning(
                f"postgres standby {name}",
                f"it is {int(str(behind)) / 1_000_000:.0f} MB behind",
                "reads go to the primary meanwhile; look at its disk and network",
            )
    if section.standbys and not names:
        yield warning(
            part,
            "commits do not wait for a standby",
            "set synchronous_standby_names: what Redis has trimmed must not be lost with the primary",
        )


def _hanging(primary: Connection) -> list[str]:
    """The synchronous standbys that do not put on their disks what the primary has on its own now."""
    (flushed,) = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("",)
    until = time.monotonic() + ANSWERS_WITHIN
    while True:
        behind = primary.execute(
            "SELECT application_name FROM pg_stat_replication"
            " WHERE sync_state IN ('sync', 'quorum') AND flush_lsn < %s::pg_lsn ORDER BY application_name",
            (flushed,),
        ).fetchall()
        if not behind or time.monotonic() > until:
            return [str(name) for (name,) in behind]
        time.sleep(LOOK_AGAIN)


def hosts(section: PostgresSection) -> Iterator[Finding]:
    """Where the URL names several hosts: whether each of them answers, and what it is."""
    named = conninfo_to_dict(section.url)
    found = str(named.get("host") or "").split(",")
    if len(found) < 2:
        return
    ports = str(named.get("port") or "5432").split(",")
    for place, host in enumerate(found):
        port = ports[place] if place < len(ports) else ports[0]
        part = f"postgres at {host}:{port}"
        try:
            with connected(section, host=host, port=port, target_session_attrs="any") as connection:
                (standby,) = connection.execute("SELECT pg_is_in_recovery()").fetchone() or (None,)
                yield ok(part, "standby" if standby else "primary")
        except psycopg.Error as error:
            told = " ".join(str(error).split()) or "no answer"
            yield warning(part, told, f"{next_for(told)}; one more lost may be too many")


def connected(section: PostgresSection, **more: str) -> Connection:
    """A connection for one check. Raises psycopg.Error."""
    return psycopg.connect(
        section.url,
        password=section.password or None,
        connect_timeout=CONNECT_TIMEOUT,
        autocommit=True,
        application_name="tocsin-doctor",
        **more,  # type: ignore[arg-type]  # each is a word of libpq's own
    )
