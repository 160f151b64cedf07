"""What travels, and its canonical bytes."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.messages import (
    Answer,
    Command,
    Level,
    canonical,
    decode_answer,
    decode_command,
    decode_level,
    digest,
    new_command,
    now,
)

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def command(**changes: object) -> Command:
    made = new_command(
        station="north", lane="p0", source="kwfm", type="source.start", params={}, key="operator"
    )
    return msgspec.structs.replace(made, **changes)


def test_a_command_is_valid_for_a_minute_under_a_new_time_ordered_id() -> None:
    """Ids are UUIDv7, so later commands sort later; the default validity is 60 s from now, in UTC."""
    before = now()
    first, second = command(), command()
    assert UUID(first.id).version == 7
    assert first.id < second.id
    assert before <= first.issued_at <= now()
    assert first.expires_at - first.issued_at == timedelta(seconds=60)
    assert first.issued_at.utcoffset() == timedelta(0)


@given(params=st.dictionaries(st.text(), plain_json, max_size=4))
def test_canonical_bytes_are_sorted_json_without_white_space(params: dict[str, object]) -> None:
    """Equal messages have equal bytes whatever the order they were built in, and decode to themselves."""
    made = command(params=params)
    raw = canonical(made)
    assert decode_command(raw) == made
    assert canonical(decode_command(raw)) == raw
    assert json.loads(raw)["params"] == params
    assert list(json.loads(raw)) == sorted(json.loads(raw))
    assert canonical(dict(reversed(params.items()))) == canonical(params)
    assert b'": ' not in raw.split(b'"params"')[0]


def test_the_bytes_of_a_known_command_never_change() -> None:
    """Signatures of yesterday must verify tomorrow: field names, order and time format are pinned."""
    made = msgspec.convert(
        {
            "id": "0190a000-0000-7000-8000-000000000001",
            "station": "north",
            "lane": "p0",
            "source": "kwfm",
            "type": "source.start",
            "params": {"b": 1, "a": None},
            "key": "operator",
            "issued_at": "2026-01-01T00:00:00.123456Z",
            "expires_at": "2026-01-01T00:01:00Z",
            "schema": 1,
        },
        Command,
    )
    assert canonical(made) == (
        b'{"expires_at":"2026-01-01T00:01:00Z","id":"0190a000-0000-7000-8000-000000000001",'
        b'"issued_at":"2026-01-01T00:00:00.123456Z","key":"operator","lane":"p0",'
        b'"params":{"a":null,"b":1},"schema":1,"source":"kwfm","station":"north","type":"source.start"}'
    )


def test_fields_of_a_newer_version_are_ignored_not_refused() -> None:
    """A message with fields that this version does not know is read all the same."""
    raw = canonical({**json.loads(canonical(command())), "added_later": 1})
    assert decode_command(raw).source == "kwfm"


def test_an_answer_without_optional_fields_is_short() -> None:
    """What is absent is left out, and comes back as None."""
    answer = Answer(id="x", lane="p0", outcome="completed", sequence=1, seq=2)
    assert canonical(answer) == b'{"id":"x","lane":"p0","outcome":"completed","seq":2,"sequence":1}'
    assert decode_answer(canonical(answer)) == answer


def test_digital_silence_is_null() -> None:
    """A level of −∞ dBFS travels as null: JSON has no infinity."""
    level = Level(source="kwfm", at=now(), rms_dbfs=None, peak_dbfs=-3.01, seconds=1.0)
    assert b'"rms_dbfs":null' in canonical(level)
    assert decode_level(canonical(level)) == level


def test_a_digest_is_sha_256_in_hex() -> None:
    """Anyone can compute the hash of an event with common tools."""
    assert digest(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("field", ["id", "station", "lane", "source", "type", "params", "key", "issued_at"])
def test_a_command_without_a_field_is_refused(field: str) -> None:
    """A command says everything itself; nothing is assumed for a field that is missing."""
    body = json.loads(canonical(command()))
    del body[field]
    with pytest.raises(msgspec.ValidationError, match=field):
        decode_command(canonical(body))
