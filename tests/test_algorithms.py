"""Commands by a real owner, signed by either algorithm: carried out, and provable from the log afterwards."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from streams.audit import verify
from streams.authorship import Authors
from streams.replay import stored
from streams.signing import Algorithm, create_key, without_secret
from streams.submit import signed
from tests.fix_streams import LANE, Hall, Scripted, working


@pytest.mark.parametrize("algorithm", ["hmac-sha256", "ed25519"])
def test_a_command_is_carried_out_by_whichever_algorithm_it_is_signed(
    hall: Hall, tmp_path: Path, algorithm: Algorithm
) -> None:
    """Signed well it is completed, altered it is rejected; the log verifies with its signatures."""
    key = create_key(tmp_path, "laptop", "engineer", algorithm)
    hall.keyring[key.id] = key if algorithm == "hmac-sha256" else without_secret(key)
    handler = Scripted()
    good, bad = hall.command(key=key), hall.command(key=key)
    other = ("0" if bad.signature[0] != "0" else "1") + bad.signature[1:]
    altered = msgspec.structs.replace(bad, signature=other)
    with working(hall, handler):
        submitter = hall.submitter()
        assert submitter.submit(good, timeout=20).outcome == "completed"
        answer = submitter.submit(altered, timeout=20)
    assert (answer.outcome, answer.reason) == ("rejected", "bad_signature")
    assert hall.results() == {good.command.id: ["completed"], bad.command.id: ["rejected"]}
    verdict = verify(LANE, stored(hall.link, hall.keys), authors=Authors(hall.keyring))
    assert verdict.fault is None
    assert verdict.signatures is not None
    assert (verdict.signatures.checked, verdict.signatures.elsewhere) == (1, {})


def test_a_key_without_its_secret_signs_nothing(hall: Hall, tmp_path: Path) -> None:
    """The half that verifiers have is of no use to whoever takes it."""
    key = create_key(tmp_path, "laptop", "engineer", "ed25519")
    with pytest.raises(Exception, match="secret"):
        signed(hall.command(key=key).command, without_secret(key))
