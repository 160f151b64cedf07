"""Settings from a file and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from streams.settings import InvalidSettings, Settings, load


def written(folder: Path, text: str) -> Path:
    path = folder / "station.toml"
    path.write_text(text, "utf-8")
    return path


def refused(path: Path | None, env: dict[str, str] | None = None) -> InvalidSettings:
    with pytest.raises(InvalidSettings) as caught:
        load(path, env or {})
    assert str(caught.value).startswith(caught.value.field)
    return caught.value


def test_without_a_file_the_defaults_hold() -> None:
    """Nothing needs to be set to read settings."""
    assert load(None, {}) == Settings()


def test_the_file_is_read_and_the_environment_lies_over_it(tmp_path: Path) -> None:
    """A variable TOCSIN_SECTION_KEY wins over the file, which wins over the default."""
    path = written(tmp_path, "[station]\nid = 'north'\nlanes = 4\n[redis]\nsentinels = ['a:1', 'b:2']\n")
    env = {"TOCSIN_STATION_LANES": "16", "TOCSIN_REDIS_SENTINELS": "c:3,d:4", "TOCSIN_WEB_PORT": "8080"}
    read = load(path, env)
    assert (read.station.id, read.station.lanes, read.web.port) == ("north", 16, 8080)
    assert read.redis.sentinels == ("c:3", "d:4")
    assert load(path, {}).redis.sentinels == ("a:1", "b:2")


def test_paths_in_the_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    """A station's folder can be moved: paths in its file go along; absolute ones stay."""
    (tmp_path / "secret").write_text("hush\n")
    path = written(
        tmp_path, "[redis]\npassword_file = 'secret'\n[keys]\ndirectory = 'keys'\n[web]\ntoken_file = '/t'\n"
    )
    read = load(path, {})
    assert read.redis.password_file == str(tmp_path / "secret")
    assert read.redis.password == "hush"
    assert read.keys.directory == str(tmp_path / "keys")
    assert read.web.token_file == "/t"


def test_a_password_in_the_environment_wins_over_its_file(tmp_path: Path) -> None:
    """Where both are given, the file is not even read."""
    path = written(tmp_path, "[redis]\npassword_file = 'missing'\n")
    assert load(path, {"TOCSIN_REDIS_PASSWORD": "hush"}).redis.password == "hush"


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("[station]\nlanes = 0", "station.lanes", ">= 1"),
        ("[station]\nlanes = 65", "station.lanes", "<= 64"),
        ("[station]\nlanes = 'many'", "station.lanes", "int"),
        ("[station]\nid = 'North'", "station.id", "a-z0-9-"),
        ('[station]\nid = "north\\n"', "station.id", "a-z0-9-"),
        ("[station]\ndurability = 'forever'", "station.durability", "forever"),
        ("[ingest]\nnode = '-x'", "ingest.node", "a-z0-9"),
        ("[redis]\nurl = 3", "redis.url", "str"),
        ("[redis]\nurl = 'http://x'", "redis.url", "redis://host:port/0"),
        ("[redis]\nurl = 'redis://x:1/3'", "redis.url", "redis://host:port/0"),
        ("[redis]\nsentinels = ['a']", "redis.sentinels[0]", "host:port"),
        ("[redis]\nreplicas = -1", "redis.replicas", ">= 0"),
        ("[redis]\nurrl = 'x'", "redis.urrl", "no such setting"),
        ("[rediss]\nurl = 'x'", "rediss", "no such setting"),
        ("redis = 5", "redis", "[redis]"),
        ("[web]\nport = 70000", "web.port", "<= 65535"),
        ("[log]\nlevel = 'loud'", "log.level", "loud"),
        ("[redis]\npassword_file = 'missing'", "redis.password_file", "No such file"),
    ],
)
def test_an_error_names_the_key_and_what_is_wrong(
    tmp_path: Path, text: str, field: str, problem: str
) -> None:
    """Whoever reads the message knows which line to change, and how."""
    error = refused(written(tmp_path, text))
    assert error.field == field
    assert problem in str(error)


def test_an_error_in_a_variable_names_the_same_key() -> None:
    """The environment is checked like the file."""
    assert refused(None, {"TOCSIN_WEB_PORT": "eighty"}).field == "web.port"


@pytest.mark.parametrize(("text", "problem"), [("[redis", "not TOML"), ("\xff", "not TOML")])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str, problem: str) -> None:
    """Syntax errors and wrong encodings name the file."""
    path = tmp_path / "station.toml"
    path.write_bytes(text.encode("latin-1"))
    error = refused(path)
    assert error.field == str(path)
    assert problem in str(error)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file is no silent default."""
    assert "cannot be read" in str(refused(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[redis]\npassword = 'hush'", "redis.password"),
        ("[postgres]\npassword = 'hush'", "postgres.password"),
        ("[redis]\nurl = 'redis://:hush@x:1/0'", "redis.url"),
        ("[postgres]\nurl = 'postgresql://tocsin:hush@x/tocsin'", "postgres.url"),
        ("[postgres]\nurl = 'postgresql://x/tocsin?password=hush'", "postgres.url"),
    ],
)
def test_secrets_are_refused_in_the_file(tmp_path: Path, text: str, field: str) -> None:
    """A secret belongs into a file of its own; the message does not repeat it."""
    error = refused(written(tmp_path, text))
    assert error.field == field
    assert "password_file" in str(error) or "without a password" in str(error)
    assert "hush" not in str(error)


def test_secrets_never_show() -> None:
    """Neither repr nor the pretty printer that draws traces on a terminal shows a password."""
    env = {"TOCSIN_REDIS_PASSWORD": "hush", "TOCSIN_POSTGRES_PASSWORD": "hush"}
    read = load(None, env)
    assert read.redis.password == read.postgres.password == "hush"
    for shown in (repr(read), str(read), pretty_repr(read), pretty_repr({"settings": read.redis})):
        assert "hush" not in shown


def test_durability_follows_from_the_replicas_unless_set() -> None:
    """`replica` where there are replicas, `memory` where there are none, else what is written."""
    assert load(None, {}).durability == "memory"
    assert load(None, {"TOCSIN_REDIS_REPLICAS": "2"}).durability == "replica"
    env = {"TOCSIN_REDIS_REPLICAS": "2", "TOCSIN_STATION_DURABILITY": "disk"}
    assert load(None, env).durability == "disk"
