"""Redis: whether the primary answers, is set up so that promises can hold, and can take writes."""

from __future__ import annotations

from collections.abc import Iterator

from redis.exceptions import ResponseError

from control.checks.finding import Finding, ok, trouble, warning
from streams import library, tls
from streams.connection import Link, Unreachable
from streams.durability import attached
from streams.faults import FAULTS
from streams.server_check import WrongServer, check_server
from streams.settings import RedisSection, Settings


def redis(link: Link, section: RedisSection) -> Finding:
    """Whether the primary answers, and is set up so that promises can hold."""
    try:
        server = check_server(link)
    except Unreachable as error:
        return trouble("redis", error.detail, _next(error, section))
    except WrongServer as error:
        changes = "; ".join(fault.change for fault in error.faults)
        return trouble("redis", str(error), changes)
    except ResponseError as error:
        return trouble("redis", f"{link.address}: {error}", FAULTS["NOPERM"].next)
    version = ".".join(map(str, server.version))
    told = f"primary {link.address}, {server.product} {version}, settings as needed"
    if not server.waits_for_disks:
        told += "; durability `disk` is not to be had: it has no WAITAOF (Redis 7.2, Valkey 8)"
    return ok("redis", told)


def _next(error: Unreachable, section: RedisSection) -> str:
    """What to do about a primary that cannot be used."""
    if error.fault is None:
        return "start it (your own station: tocsin up), or mend the network"
    if error.fault.code in ("RESET", "REFUSED", "TIMEOUT"):
        other = (
            "speaks no TLS: redis.tls = false"
            if tls.encrypted(section)
            else "speaks TLS only: redis.tls = true"
        )
        return f"{error.fault.next}; if the server {other}"
    return error.fault.next


def writes(link: Link, settings: Settings) -> Iterator[Finding]:
    """Whether the primary takes writes. It says so itself: nothing is written to find out."""
    memory, persistence = _info(link, "memory"), _info(link, "persistence")
    used, limit = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
    if limit and used >= settings.archive.high_water * limit:
        told = f"{_megabytes(used)} of {_megabytes(limit)} are used, so no new commands are taken"
        yield trouble(
            "memory", told, f"mend the archive if it stands still (below); else {FAULTS['OOM'].next}"
        )
    failed = [
        told
        for field, told in (
            ("rdb_last_bgsave_status", "the last snapshot could not be written"),
            ("aof_last_write_status", "the append-only file cannot be written"),
            ("aof_last_bgrewrite_status", "the append-only file could not be rewritten"),
        )
        if persistence.get(field) == "err"
    ]
    if failed:
        yield trouble("disk", f"{link.address}: {'; '.join(failed)}", FAULTS["MISCONF"].next)
    if _info(link, "replication").get("min_slaves_good_slaves") == "0":
        yield trouble("writes", FAULTS["NOREPLICAS"].means, FAULTS["NOREPLICAS"].next)
    if persistence.get("loading") == "1":
        yield warning("redis loading", FAULTS["LOADING"].means, FAULTS["LOADING"].next)


def replicas(link: Link, settings: Settings) -> Iterator[Finding]:
    """Whether all replicas that the settings speak of are attached."""
    wanted = settings.redis.replicas
    if not wanted:
        return
    found = len(attached(link).replicas)
    told = f"{found} of {wanted} attached"
    if found >= wanted:
        yield ok("replicas", told)
    elif found:
        yield warning("replicas", told, "start the missing one: the next loss stops all writes")
    else:
        yield trouble("replicas", told, "the primary takes no writes without one: start the replicas")


def functions(link: Link, _: Settings) -> Iterator[Finding]:
    """Whether the server-side functions are those of this version."""
    loaded, ours = library.loaded_version(link), library.version()
    if loaded == ours:
        yield ok("functions", f"library {library.NAME}, version {ours}")
    elif loaded is None:
        yield trouble(
            "functions",
            "not loaded",
            "restart the station (tocsin up), or on your own servers: tocsin access load",
        )
    else:
        yield trouble(
            "functions",
            f"version {loaded}, this tool has {ours}",
            "run the same version of Tocsin everywhere, then load its functions: tocsin access load",
        )


def plaintext(section: RedisSection) -> Iterator[Finding]:
    """Whether passwords and commands travel to another host unencrypted."""
    hosts = [sentinel.rpartition(":")[0] for sentinel in (*section.sentinels, *section.cluster)]
    if section.url and not section.sentinels:
        hosts.append(section.url.partition("//")[2].rpartition(":")[0])
    open_to = sorted({host for host in hosts if host not in tls.LOCAL})
    if open_to and not tls.encrypted(section):
        yield warning(
            "redis encryption",
            f"commands and passwords travel unencrypted to {', '.join(open_to)}",
            "give the servers a tls-port and a certificate, and set redis.tls and redis.ca_file",
        )


def _info(link: Link, section: str) -> dict[str, str]:
    said: bytes = link.call("INFO", section)
    return dict(line.split(":", 1) for line in said.decode("utf-8", "replace").splitlines() if ":" in line)


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.0f} MB"
