"""Keys and signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from streams.signing import Algorithm, InvalidKey, Key, create_key, load_key, load_keyring, sign, verifies

HMAC = Key(id="a", algorithm="hmac-sha256", role="operator", secret=base64.b64encode(b"k" * 32).decode())
ALGORITHMS: tuple[Algorithm, ...] = ("hmac-sha256", "ed25519")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return {algorithm: create_key(folder, algorithm, "engineer", algorithm) for algorithm in ALGORITHMS}


def test_an_hmac_signature_is_rfc_2104_in_hex() -> None:
    """Any other program can make and check one with its standard library."""
    assert sign(b"bytes", HMAC) == hmac.new(b"k" * 32, b"bytes", hashlib.sha256).hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(raw=st.binary(max_size=200), at=st.integers(0), flip=st.integers(1, 255))
def test_any_changed_byte_breaks_the_signature(
    keys: dict[str, Key], algorithm: str, raw: bytes, at: int, flip: int
) -> None:
    """Of the bytes or of the signature: with one byte changed nothing verifies, and nothing raises."""
    key = keys[algorithm]
    signature = sign(raw, key)
    assert verifies(raw, signature, key)
    if raw:
        changed = bytearray(raw)
        changed[at % len(raw)] ^= flip
        assert not verifies(bytes(changed), signature, key)
    forged = bytearray(signature.encode())
    forged[at % len(forged)] ^= flip
    assert not verifies(raw, forged.decode("latin-1"), key)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(signature=st.text(max_size=150))
def test_arbitrary_text_is_no_signature(keys: dict[str, Key], algorithm: str, signature: str) -> None:
    """Whatever stands where a signature belongs is refused without an error."""
    assert not verifies(b"bytes", signature, keys[algorithm])


def test_a_signature_has_one_text(keys: dict[str, Key]) -> None:
    """Capitals or spaces would make another text of the same signature."""
    for key in keys.values():
        signature = sign(b"bytes", key)
        assert not verifies(b"bytes", signature.upper(), key)
        assert not verifies(b"bytes", signature + " ", key)


def test_another_key_does_not_verify(keys: dict[str, Key], tmp_path: Path) -> None:
    """A signature speaks for one key only."""
    for algorithm in ALGORITHMS:
        other = create_key(tmp_path, algorithm, "engineer", algorithm)
        assert not verifies(b"bytes", sign(b"bytes", other), keys[algorithm])


def test_a_created_key_is_private_and_comes_back(tmp_path: Path) -> None:
    """The file has mode 0600 in a folder of mode 0700, and holds the key under its name."""
    folder = tmp_path / "new" / "keys"
    key = create_key(folder, "operator", "operator")
    assert stat.S_IMODE((folder / "operator.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert load_key(folder, "operator") == key
    assert load_keyring(folder) == {"operator": key}
    assert len(base64.b64decode(key.secret)) == 32


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """A second key of one name is refused, and the first stays."""
    key = create_key(tmp_path, "operator", "operator")
    with pytest.raises(FileExistsError):
        create_key(tmp_path, "operator", "engineer")
    assert load_key(tmp_path, "operator") == key


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """An open file says so and how to close it."""
    create_key(tmp_path, "operator", "operator")
    (tmp_path / "operator.json").chmod(0o640)
    with pytest.raises(InvalidKey, match="chmod 600"):
        load_key(tmp_path, "operator")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        "\udcff",
        '{"id":"operator","algorithm":"hmac-sha256","role":"operator","secret":""}',
        '{"id":"operator","algorithm":"hmac-sha256","role":"operator","secret":"c2hvcnQ="}',
        '{"id":"operator","algorithm":"hmac-sha256","role":"operator","secret":"not base64!"}',
        '{"id":"operator","algorithm":"none","role":"operator","secret":"c2hvcnQ="}',
        '{"id":"operator","algorithm":"hmac-sha256","role":"king","secret":"c2hvcnQ="}',
        '{"id":"operator","algorithm":"ed25519","role":"operator"}',
    ],
)
def test_a_file_that_holds_no_usable_key_is_refused(tmp_path: Path, content: str) -> None:
    """An empty, short, odd or unknown key is never used; the message shows no content."""
    path = tmp_path / "operator.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(InvalidKey, match="operator") as caught:
        load_key(tmp_path, "operator")
    assert "c2hvcnQ" not in str(caught.value)


def test_a_missing_key_and_one_under_another_name_are_refused(tmp_path: Path) -> None:
    """A key is found under its id and nowhere else."""
    with pytest.raises(InvalidKey, match="cannot be read"):
        load_key(tmp_path, "operator")
    create_key(tmp_path, "operator", "operator")
    (tmp_path / "operator.json").rename(tmp_path / "admin.json")
    with pytest.raises(InvalidKey, match="name the file after its key"):
        load_keyring(tmp_path)


def test_a_key_never_shows_its_secret(keys: dict[str, Key]) -> None:
    """Neither repr nor the pretty printer that draws traces on a terminal shows it."""
    for key in keys.values():
        for shown in (repr(key), str(key), f"{key}", pretty_repr({"key": key})):
            assert key.secret not in shown
            assert key.id in shown


def test_roles_permit_what_they_are_for() -> None:
    """An engineer may do everything, an operator what runs and stops, the others nothing."""

    def permitted(role: str) -> set[str]:
        key = Key(id="a", algorithm="hmac-sha256", role=role, secret="x")  # type: ignore[arg-type]
        types = ("source.start", "source.stop", "source.restart", "source.add", "source.remove", "x.y")
        return {type for type in types if key.permits(type)}

    assert permitted("operator") == {"source.start", "source.stop", "source.restart"}
    assert len(permitted("engineer")) == 6
    assert permitted("viewer") == permitted("auditor") == permitted("node") == set()
