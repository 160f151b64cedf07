"""`tocsin key …`: who may command the station."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from control import ownkeys
from control.cli import answers, options, session, show
from control.cli.trouble import Trouble
from control.desk import Desk
from control.outcomes import EXIT_CODES, WRONG_USAGE
from control.tokens import token_of
from streams.connection import connect
from streams.key_messages import KeyCreate, KeyRevoke, KeyRotate
from streams.keybook import Keybook, Registered
from streams.keywatch import read_book
from streams.messages import Answer
from streams.names import STATION_LANE
from streams.signing import InvalidKey, Key, Role, load_key, load_keyring, new_key
from streams.submit import InDoubt, NoAnswer
from streams.vocabulary import plain

Keep = Callable[[Key], str]
"""Puts a new secret where it will stand; returns what is told of that."""


@click.group()
def key() -> None:
    """Make keys, and say what may be signed with them."""


@key.command("create")
@click.argument("id")
@click.option("--role", required=True, type=click.Choice(get_args(Role)), help="What it may do.")
@click.option("--source", "sources", multiple=True, metavar="GLOB", help="Limit it to these sources.")
@click.option("--group", "groups", multiple=True, metavar="GLOB", help="Limit it to sources in these groups.")
@click.option("--token", "as_token", is_flag=True, help="Show it once as a bearer token; keep it nowhere.")
@click.option("--keyring", "in_keyring", is_flag=True, help="Keep it in this machine's keyring, not a file.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Keep it in this file.")
@click.option("--public", metavar="BASE64", help="Only register this public half: the secret is elsewhere.")
@options.submitting
def create_key(
    id: str,
    role: Role,
    sources: tuple[str, ...],
    groups: tuple[str, ...],
    as_token: bool,
    in_keyring: bool,
    out: Path | None,
    public: str | None,
) -> None:
    """Make a key here and have the station know its public half; the secret stays with you."""
    _one_of(as_token, in_keyring, out is not None, public is not None)
    with session.desk() as desk:
        path = out or ownkeys.own_path(desk.settings, id)
        made = None if public else _again(path, id, role) or new_key(id, role, "ed25519")
        asked = _params(
            KeyCreate,
            id=id,
            public=made.public if made else public,
            role=role,
            sources=sources,
            groups=groups,
        )
        where, keep = _place(desk, path, as_token=as_token, in_keyring=in_keyring)
        kept = made is not None and not (as_token or options.dry_run()) and keep(made)
        answer = _submit(desk, "key.create", id, asked, made if as_token else None)
        if answer.outcome != "completed" and kept and made is not None:
            _drop(desk, path, made, in_keyring=in_keyring)
    _tell("key.create", id, answer, made, where if made else "", as_token=as_token)


@key.command("rotate")
@click.argument("id")
@click.option(
    "--grace", type=options.Seconds(zero=True), default=60.0, help="How long the old half still holds (60s)."
)
@click.option("--token", "as_token", is_flag=True, help="Show it once as a bearer token; keep it nowhere.")
@click.option("--keyring", "in_keyring", is_flag=True, help="Keep it in this machine's keyring, not a file.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Keep it in this file.")
@options.submitting
def rotate_key(id: str, grace: float, as_token: bool, in_keyring: bool, out: Path | None) -> None:
    """Give a key a new secret, in the place of the old one once the station knows it.

    Broken off half-way, it is finished by the same once more: until then both secrets are kept.
    """
    _one_of(as_token, in_keyring, out is not None)
    with session.desk() as desk:
        path = out or ownkeys.path_of(desk.settings, id)
        waiting = ownkeys.waiting_path(path.with_name(f"{id}.json"))
        made = _begun(path, waiting, id) or new_key(id, "operator", "ed25519")
        asked = _params(KeyRotate, id=id, public=made.public, grace=grace)
        if not (as_token or options.dry_run() or waiting.exists()):
            ownkeys.keep_in_file(waiting, made, replace=True)
        answer, known = None, None if options.dry_run() else _known(desk, id)
        if known is None or known.public != made.public:
            answer = _submit(desk, "key.rotate", id, asked, made if as_token else None)
            known = _known(desk, id)
        where = ""
        if known is not None and known.public == made.public and not as_token:
            # The file says what the log says of it: the role is not ours to choose.
            where = _replace(desk, path, msgspec.structs.replace(known, secret=made.secret), in_keyring)
        waiting.unlink(missing_ok=True)
    _tell("key.rotate", id, answer, made, where, as_token=as_token)


@key.command("revoke")
@click.argument("id")
@click.option("--reason", default="", help="Why; it stands in the log.")
@options.submitting
def revoke_key(id: str, reason: str) -> None:
    """Let nothing pass any more that this key signs; its id is never used again."""
    with session.desk() as desk:
        answer = _submit(desk, "key.revoke", id, _params(KeyRevoke, id=id, reason=reason))
    _tell("key.revoke", id, answer)


@key.command("list")
@options.reading
def list_keys() -> None:
    """List all keys that the station knows or knew."""
    with session.desk() as desk:
        found = _told(desk)
    if options.wants_json():
        show.as_json({"keys": found})
        return
    show.table(
        ("KEY", "ROLE", "LIMITED TO", "STATE", "KEPT IN", "MADE BY"),
        (
            (
                one["id"], one["role"], " ".join([*one["sources"], *(f"@{name}" for name in one["groups"])]),
                one["state"], one["kept_in"], one["created_by"],
            )
            for one in found
        ),
        whole="KEY",
    )  # fmt: skip


@key.command("show")
@click.argument("id")
@options.reading
def show_key(id: str) -> None:
    """Show one key."""
    with session.desk() as desk:
        found = next((one for one in _told(desk) if one["id"] == id), None)
    if found is None:
        raise Trouble(
            f"the station knows no key {id!r}",
            next="tocsin key list shows those there are",
            code=EXIT_CODES["rejected"],
            reason="unknown_key",
        )
    if options.wants_json():
        show.as_json({"key": found})
    else:
        show.facts(
            (name, ", ".join(value) if isinstance(value, list) else value) for name, value in found.items()
        )


def _one_of(*chosen: bool) -> None:
    if sum(chosen) > 1:
        raise click.UsageError("choose one of --token, --keyring, --out and --public")


def _params(kind: type[msgspec.Struct], **given: Any) -> dict[str, Any]:
    try:
        return plain(msgspec.convert(given, kind))
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$.")
        raise click.UsageError(f"{where.rstrip('`') or 'key'}: {message}") from None


def _again(path: Path, id: str, role: Role) -> Key | None:
    """The key that an earlier try has left there: it is registered now, and no other made."""
    if not path.exists():
        return None
    if path.stem != id:
        # A file of another name than its key's, such as --out names.
        raise Trouble(f"{path} is there already", next="name another file", code=WRONG_USAGE)
    found = load_key(path.parent, id)
    if found.algorithm != "ed25519" or found.role != role:
        raise Trouble(
            f"{path} holds another key", next="move it away, or choose another id", code=WRONG_USAGE
        )
    return found


def _begun(path: Path, waiting: Path, id: str) -> Key | None:
    """The new secret of a rotation that was broken off; one that came into its place is none any more."""
    made = _again(waiting, id, "operator")
    if made is None or not path.exists() or path.stem != id:
        return made
    if load_key(path.parent, id).public != made.public:
        return made
    waiting.unlink()
    return None


def _place(desk: Desk, path: Path, *, as_token: bool, in_keyring: bool) -> tuple[str, Keep]:
    """Where the secret will be, in words, and what puts it there."""
    station = desk.settings.station.id
    if as_token:
        return "", lambda _: ""
    if in_keyring:
        return f"the keyring of this machine (tocsin:{station})", lambda made: _to_keyring(station, made)
    return str(path), lambda made: _to_file(path, made)


def _to_keyring(station: str, made: Key) -> str:
    try:
        ownkeys.keep_in_keyring(station, made)
    except ownkeys.NoKeyring as error:
        raise Trouble(str(error), next="leave --keyring out: a file is made", code=WRONG_USAGE) from None
    return "keyring"


def _to_file(path: Path, made: Key) -> str:
    if path.exists():
        return ""
    try:
        ownkeys.keep_in_file(path, made)
    except OSError as error:
        raise InvalidKey(f"no key can be written to {path}: {error.strerror}") from None
    return "file"


def _replace(desk: Desk, path: Path, made: Key, in_keyring: bool) -> str:
    """Put the secret where the old one was; where that is, in words."""
    if in_keyring:
        _to_keyring(desk.settings.station.id, made)
        return _place(desk, path, as_token=False, in_keyring=True)[0]
    ownkeys.keep_in_file(path, made, replace=True)
    return str(path)


def _drop(desk: Desk, path: Path, made: Key, *, in_keyring: bool) -> None:
    """Let go of a secret that the station did not take."""
    if in_keyring:
        ownkeys.drop_from_keyring(desk.settings.station.id, made.id)
    else:
        path.unlink(missing_ok=True)


def _submit(desk: Desk, type: str, id: str, params: dict[str, Any], token: Key | None = None) -> Answer:
    wish = session.wish(type, "", params, id=options.given().get("command_id"))
    try:
        return desk.submit(wish, STATION_LANE, timeout=options.timeout())
    except (NoAnswer, InDoubt):
        if token is not None:
            # It may yet become good, and this is the only place where it is shown.
            click.echo(f"The token, should it be accepted: {token_of(token)}", err=True)
        raise


def _tell(
    type: str,
    id: str,
    answer: Answer | None,
    made: Key | None = None,
    where: str = "",
    *,
    as_token: bool = False,
) -> None:
    """Tell what became of it; without an answer an earlier command had done it already."""
    if answer is not None and answer.outcome != "completed":
        answers.tell(type, "", answer)
    if answer is None and not options.wants_json():
        click.echo(f"{id}: the station had taken it at an earlier try")
    elif answer is not None and not options.wants_json():
        click.echo(f"{id}: {answer.state} (command {answer.id})")
    if options.wants_json():
        told = {"id": id, "public": made.public if made else None, "kept_in": where or None}
        told["token"] = token_of(made) if made and as_token else None
        show.as_json(
            {
                "key": {name: value for name, value in told.items() if value is not None},
                "command": {"type": type, **msgspec.to_builtins(answer)} if answer else None,
            }
        )
    elif made is not None and as_token:
        click.echo(token_of(made))
        click.echo("This is shown once, and kept nowhere: whoever has it may do what the key may.", err=True)
    elif where:
        click.echo(f"Its secret is in {where}. Sign with it: keys.sign_with, or TOCSIN_KEYS_SIGN_WITH={id}")


def _known(desk: Desk, id: str) -> Key | None:
    found = _book(desk).get(id)
    return found.key if found and found.revoked_at is None else None


def _book(desk: Desk) -> Keybook:
    settings = desk.settings.as_role("reader")
    link = connect(settings.redis, "keys")
    try:
        return read_book(link, settings.station.id, session.archive(settings))
    finally:
        link.close()


def _told(desk: Desk) -> list[dict[str, Any]]:
    book = _book(desk)
    files = load_keyring(Path(desk.settings.keys.directory))
    here = {**dict.fromkeys(files, Registered()), **book}
    return [_plain(id, one, files.get(id)) for id, one in sorted(here.items())]


def _plain(id: str, one: Registered, file: Key | None) -> dict[str, Any]:
    key = one.key or file
    return {
        "id": id,
        "role": key.role if key else "",
        "algorithm": key.algorithm if key else "",
        "state": "revoked" if one.revoked_at else "good",
        "kept_in": "log" if one.key else "file",
        "public": key.public if key else "",
        "sources": list(key.sources) if key else [],
        "groups": list(key.groups) if key else [],
        "created_at": _moment(one.created_at),
        "created_by": one.created_by,
        "rotated_at": _moment(one.rotated_at),
        "revoked_at": _moment(one.revoked_at),
        "revoked_by": one.revoked_by,
        "reason": one.reason,
    }


def _moment(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds") if at else None
