"""Which Redis user a process takes, and the verbs that make the users of a station."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from control.station import folder as place
from control.station.ask import ask
from streams.access import ROLES
from streams.lua import version
from streams.settings import InvalidSettings, load
from streams.tls import encrypted
from tests.fix_access import STATION, Guarded
from tests.fix_cli import Terminal


def written(folder: Path, text: str) -> Path:
    path = folder / "station.toml"
    path.write_text(text)
    return path


def test_each_role_takes_its_own_user(tmp_path: Path) -> None:
    """The folder of passwords is relative to the settings; a role reads its own file and no other."""
    (tmp_path / "redis-reader.password").write_text("for reading\n")
    path = written(tmp_path, '[station]\nid = "north"\n[redis]\npassword_directory = "."\n')
    settings = load(path, {})
    reader = settings.as_role("reader").redis
    assert (reader.username, reader.password) == ("north-reader", "for reading")
    assert reader.sentinel_login == ("north-reader", "for reading")
    with pytest.raises(InvalidSettings, match=r"redis-admin\.password") as error:
        settings.as_role("admin")
    assert error.value.field == "redis.password_directory"
    assert "for reading" not in f"{error.value} {reader!r}"


def test_a_role_may_take_the_place_of_another(tmp_path: Path) -> None:
    """A process with two roles derives both from the same settings."""
    for role in ("reader", "submitter"):
        (tmp_path / f"redis-{role}.password").write_text(role)
    submitter = load(written(tmp_path, '[redis]\npassword_directory = "."'), {}).as_role("submitter")
    assert submitter.as_role("reader").redis.password == "reader"


def test_without_a_folder_all_roles_take_the_one_user(tmp_path: Path) -> None:
    """A simple deployment, or one process with its own user, needs no folder."""
    settings = load(written(tmp_path, '[redis]\nusername = "all"'), {"TOCSIN_REDIS_PASSWORD": "hush"})
    for role in ROLES:
        assert settings.as_role(role) == settings
    assert settings.redis.sentinel_login == ("all", "hush")


@pytest.mark.parametrize("other", ["username", "password_file"])
def test_one_user_and_a_user_per_role_are_not_to_be_had_at_once(tmp_path: Path, other: str) -> None:
    """Neither is silently preferred; the message names what to remove."""
    (tmp_path / "x").write_text("x")
    path = written(tmp_path, f'[redis]\npassword_directory = "."\n{other} = "x"\n')
    with pytest.raises(InvalidSettings, match=f"remove redis.{other}"):
        load(path, {})
    path = written(tmp_path, '[redis]\npassword_directory = "."\n')
    with pytest.raises(InvalidSettings, match=r"remove redis\.password"):
        load(path, {"TOCSIN_REDIS_PASSWORD": "hush"})


def test_sentinels_may_have_a_password_of_their_own(tmp_path: Path) -> None:
    """Where they have no users, only a password, none of the servers' users is sent to them."""
    (tmp_path / "s").write_text("for Sentinels")
    text = '[redis]\nusername = "me"\nsentinel_password_file = "s"\n'
    redis = load(written(tmp_path, text), {"TOCSIN_REDIS_PASSWORD": "hush"}).redis
    assert redis.sentinel_login == ("", "for Sentinels")
    assert "for Sentinels" not in repr(redis)
    text += 'sentinel_username = "default"\n'
    redis = load(written(tmp_path, text), {"TOCSIN_REDIS_SENTINEL_PASSWORD": "else"}).redis
    assert redis.sentinel_login == ("default", "else")


def test_tls_is_asked_for_by_the_switch_or_by_the_address(tmp_path: Path) -> None:
    """`redis.tls` and `rediss://` mean the same; there is no setting that turns verification off."""
    assert not encrypted(load(None, {"TOCSIN_REDIS_URL": "redis://a:1/0"}).redis)
    assert encrypted(load(None, {"TOCSIN_REDIS_URL": "rediss://a:1/0"}).redis)
    assert encrypted(load(None, {"TOCSIN_REDIS_TLS": "true", "TOCSIN_REDIS_URL": "redis://a:1/0"}).redis)
    with pytest.raises(InvalidSettings, match="no such setting"):
        load(written(tmp_path, "[redis]\nverify = false\n"), {})


def test_a_folder_of_before_there_were_users_still_starts(tmp_path: Path) -> None:
    """The users are made, the settings name them, and all else that was written stays."""
    made = place.prepare(tmp_path / "old")
    for path in made.secrets.glob("redis-*"):
        path.unlink()
    (made.secrets / "redis.password").write_text("of before\n")
    text = made.settings.read_text()
    old = text.replace('password_directory = "secrets"', 'password_file = "secrets/redis.password"')
    made.settings.write_text("# mine\n" + old)
    assert load(made.settings, {}).redis.password == "of before"

    again = place.prepare(made.path)
    assert again.settings.read_text() == "# mine\n" + text
    users = again.users("station")
    assert load(again.settings, {}).as_role("ingest").redis.password == users.passwords["ingest"]
    assert len(set(users.passwords.values())) == len(ROLES)


@pytest.fixture
def own(tmp_path: Path, guarded: Guarded) -> Terminal:
    """The `tocsin` command for a station on a server that it did not start."""
    settings = f'[station]\nid = "{STATION}"\n[redis]\nurl = "redis://127.0.0.1:{guarded.port}/0"\n'
    written(tmp_path, f'{settings}password_directory = "secrets"\n')
    return Terminal(tmp_path)


def test_users_are_made_and_set_up(own: Terminal, guarded: Guarded, tmp_path: Path) -> None:
    """`access create` makes the passwords once, and what `access acl` prints lets them in."""
    made = own("access", "create", "--json").json["access"]["made"]
    assert len(made) == len(ROLES)
    assert all(stat.S_IMODE(Path(path).stat().st_mode) == 0o600 for path in made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert own("access", "create", "--json").json["access"]["made"] == []
    printed = own("access", "acl")
    assert not [path for path in made if Path(path).read_text().strip() in printed.out]
    for line in printed.out.splitlines():
        name, *rules = line.removeprefix("user ").split(" ", 1)
        if name != "default":
            guarded.ask("admin", "ACL", "SETUSER", name.replace(STATION, "made"), "reset", *_words(rules[0]))
    password = (tmp_path / "secrets" / "redis-reader.password").read_text().strip()
    assert ask(guarded.port, ("made-reader", password), "PING") == "PONG"
    assert own("access", "acl", "--sentinel").out.count(" +sentinel|master ") == len(ROLES) - 2
    assert [role["role"] for role in own("access", "list", "--json").json["access"]] == list(ROLES)


def test_the_functions_are_loaded_by_the_admin(own: Terminal, guarded: Guarded, tmp_path: Path) -> None:
    """`access load` is what a deployment does after an upgrade."""
    (tmp_path / "secrets").mkdir()
    for role, password in guarded.users.passwords.items():
        (tmp_path / "secrets" / f"redis-{role}.password").write_text(password)
    guarded.ask("admin", "FUNCTION", "FLUSH")
    assert own("access", "load").code == 0
    assert guarded.ask("reader", "FCALL_RO", "tocsin_version", 0) == version()


def test_a_station_with_one_user_says_how_to_have_more(tmp_path: Path) -> None:
    """The verbs that need the folder of passwords name its setting."""
    written(tmp_path, "")
    ran = Terminal(tmp_path)("access", "acl", "--json")
    assert ran.code == 2
    assert "redis.password_directory" in ran.json["error"]["next"]
    written(tmp_path, '[redis]\npassword_directory = "secrets"')
    ran = Terminal(tmp_path)("access", "acl", "--json")
    assert "tocsin access create" in ran.json["error"]["next"]


def _words(rules: str) -> list[str]:
    """The rules as ACL SETUSER takes them: what stands in brackets is one word."""
    found: list[str] = []
    for word in rules.split(" "):
        if found and found[-1].startswith("(") and not found[-1].endswith(")"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found
