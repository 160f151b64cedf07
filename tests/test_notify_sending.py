"""The outbox and its senders: what goes out, once, to receivers that refuse, hang, stop and come back."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from sqlalchemy import func, update

from projections.lasting import NotLasting
from projections.metrics import families
from projections.notify import outbox
from projections.notify.dead_man import DeadMan
from projections.notify.outbox import GIVE_UP
from projections.notify.sender import Sender
from projections.scrape import Facts, PostgresFacts
from projections.snapshots import LaneState
from projections.tables import notifications
from streams.messages import now
from streams.notices import NotifySection
from tests.fix_notify import SECRET, Bell
from tests.fix_servers import eventually

ROOT = Path(__file__).parent.parent
Name = Literal["http", "mail"]
NAMES: tuple[Name, ...] = ("http", "mail")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Senders that try again after a fraction of a second."""
    waits = msgspec.structs.replace(sys.modules[Sender.__module__].WAITS, first=0.2, longest=0.5)
    monkeypatch.setattr("projections.notify.sender.WAITS", waits)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mood", ["refusing", "hanging", "stopped"])
def test_a_receiver_that_takes_nothing_gets_it_once_it_does(bell: Bell, name: Name, mood: Any) -> None:
    """It is tried again while the receiver refuses, hangs or is away, and taken once when it is back."""
    receiver = bell.receiver(name)
    number = bell.put(name)
    if mood == "stopped":
        receiver.stop()
    else:
        receiver.mood = mood
    with bell.sending(bell.sender(name)):
        eventually(lambda: bell.notifications()[0]["attempts"] >= 3, "three attempts")
        assert bell.states()[0] in ("due", "sending")
        receiver.mood = "well"
        if mood == "stopped":
            receiver.start()
        eventually(lambda: bell.states() == ["sent"], "it was sent")
    assert receiver.ids == [f"test-{number}-0"]
    (kept,) = bell.notifications()
    assert kept["detail"] is None
    assert kept["sent_at"] is not None


def test_what_waited_goes_out_at_once_when_the_receiver_is_back(bell: Bell) -> None:
    """The first that is taken lets all others be due: they do not wait for their own next attempts."""
    later = now() + timedelta(hours=1)
    bell.put("http")
    for _ in range(3):
        bell.put("http", next_try=later, attempts=9)
    bell.http.mood = "refusing"
    with bell.sending(bell.sender("http")):
        eventually(lambda: bell.http.attempts >= 2, "two attempts")
        bell.http.mood = "well"
        eventually(lambda: bell.states() == ["sent"] * 4, "all sent")
    assert len(bell.http.taken) == 4


def test_a_target_that_is_away_holds_up_no_other(bell: Bell) -> None:
    """Each target has its sender: while one hangs, the other has its notifications."""
    bell.http.mood = "hanging"
    bell.put("http")
    bell.put("mail")
    with bell.sending(bell.sender("http")):
        eventually(lambda: bell.http.attempts, "the first hangs")
        assert bell.sender("mail").send_one()
    assert len(bell.mail.taken) == 1
    assert bell.http.taken == []


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_logged_or_kept(
    bell: Bell, name: Name, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever goes wrong with a target, no part of its address is in a log, on a terminal or in the rows."""
    caplog.set_level(logging.WARNING)  # as streams.logs sets libraries, whatever our own level is
    bell.put(name)
    receiver = bell.receiver(name)
    for mood in ("refusing", "hanging"):
        receiver.mood = mood  # type: ignore[assignment]  # it is one
        assert not bell.sender(name).send_one()
        _let_be_due(bell)
    receiver.stop()
    assert not bell.sender(name).send_one()
    (kept,) = bell.notifications()
    said = capfd.readouterr()
    assert kept["detail"]
    assert "not delivered" in said.out + said.err
    # What apprise says is heard by nobody else (pytest hears it all the same).
    assert not logging.getLogger("apprise").propagate
    libraries = [one.getMessage() for one in caplog.records if one.name != "apprise"]
    for text in (str(kept), said.out, said.err, *libraries):
        assert SECRET not in text


def test_an_address_file_that_others_may_read_is_not_used(bell: Bell) -> None:
    """Nothing is sent and the reason is kept; it goes out once the file is private, without a restart."""
    bell.put("http")
    sender = bell.sender("http")
    file = bell.folder / "http.url"
    file.chmod(0o644)
    assert not sender.send_one()
    assert "chmod 600" in bell.notifications()[0]["detail"]
    assert bell.http.attempts == 0
    file.chmod(0o600)
    _let_be_due(bell)
    assert sender.send_one()
    assert len(bell.http.taken) == 1


def test_what_could_not_be_delivered_for_a_day_is_given_up(bell: Bell) -> None:
    """After 24 hours it is given up, with the reason of the last attempt, and not tried again."""
    bell.http.mood = "refusing"
    bell.put("http", created_at=now() - GIVE_UP)
    sender = bell.sender("http")
    assert not sender.send_one()
    assert bell.states() == ["given up"]
    bell.http.mood = "well"
    assert not sender.send_one()
    assert bell.http.taken == []


def test_a_claim_that_does_not_last_is_given_back(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notification claimed while no standby confirms is certainly unsent: it stays due, uncounted.

    It was left as `sending` once, and called `perhaps` two minutes later.
    """
    monkeypatch.setattr("projections.lasting.WITHIN", 0.1)
    bell.put("http")
    sender = bell.sender("http", standbys=1)
    with pytest.raises(NotLasting):
        sender.send_one()
    assert bell.states() == ["sending"]
    with bell.sending(sender):
        eventually(lambda: bell.states() == ["due"], "given back")
    assert bell.states() == ["due"]
    assert bell.notifications()[0]["attempts"] == 0
    assert bell.http.attempts == 0
    assert bell.sender("http").send_one()
    assert bell.notifications()[0]["attempts"] == 1


def test_a_second_attempt_whose_process_ended_is_perhaps_not_sent_again(bell: Bell) -> None:
    """That the first attempt was refused says nothing of the second: it may have been taken.

    It was sent again once: what was taken from a process killed before it noted so came twice.
    """
    bell.http.mood = "refusing"
    bell.put("http")
    assert not bell.sender("http").send_one()
    _let_be_due(bell)
    with bell.yard.engine.begin() as connection:
        taken = outbox.claim(connection, "http", now())
    assert taken is not None
    assert taken.attempts == 2
    bell.http.mood = "well"
    with bell.sending(bell.sender("http", lease=0.0)):
        eventually(lambda: bell.states() == ["perhaps"], "in doubt")
    assert bell.http.taken == []
    with bell.yard.engine.begin() as connection:
        outbox.sent(connection, taken, now())
    assert bell.states() == ["sent"], "whoever comes back late knows what became of it"


@pytest.mark.parametrize("dedups", [False, True])
def test_a_process_killed_while_it_sends_leaves_it_perhaps(bell: Bell, dedups: bool) -> None:
    """After SIGKILL in the midst of a request nobody knows: it is sent again only where ids count."""
    number = bell.put("http")
    bell.http.mood, bell.http.patience = "hanging", 20
    settings = msgspec.json.encode(
        msgspec.structs.replace(bell.yard.settings, notify=NotifySection(targets=(bell.target("http"),)))
    )
    argv = (sys.executable, "-m", "tests.programs.sender")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        process.stdin.write(settings)
        process.stdin.close()
        eventually(lambda: bell.http.attempts == 1, "it sends")
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    assert bell.states() == ["sending"]
    bell.http.mood = "well"
    with bell.sending(bell.sender("http", dedups=dedups, lease=0.0)):
        eventually(lambda: bell.states() == ["sent" if dedups else "perhaps"], "settled")
    assert bell.http.ids == ([f"test-{number}-0"] if dedups else [])


def test_two_senders_of_a_target_send_each_once(bell: Bell) -> None:
    """Two processes with the same rules take turns: no notification is sent by both."""
    for _ in range(20):
        bell.put("http")
    first, second = bell.sender("http"), bell.sender("http")
    with bell.sending(first), bell.sending(second):
        eventually(lambda: bell.states() == ["sent"] * 20, "all sent")
    assert len(bell.http.ids) == len(set(bell.http.ids)) == 20


def switch(bell: Bell, *targets: str) -> DeadMan:
    """A dead man's switch that asks the HTTP receiver, and whose only lane is well."""
    file = bell.folder / "dead-man.url"
    file.write_text(f"http://127.0.0.1:{bell.http.port}/{SECRET}\n")
    file.chmod(0o600)
    return DeadMan(
        bell.yard.engine,
        str(file),
        1.0,
        node="local",
        targets=targets,
        lanes=lambda: {"p0": LaneState(now(), None)},
        stopping=bell.stopping,
    )


def test_what_waits_for_a_target_is_not_well_unless_the_target_is_gone(bell: Bell) -> None:
    """Ten minutes undelivered is not well; a target that is no longer configured makes nothing unwell.

    It did once, for ever: nobody sends to it any more.
    """
    bell.heard()
    bell.put("http", created_at=now() - timedelta(minutes=11))
    assert "http takes nothing" in switch(bell, "http", "mail").wrong()
    assert switch(bell, "mail").wrong() == ""


def test_the_dead_mans_address_is_asked_while_all_is_well(
    bell: Bell, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is asked for again and again; not while a node is not heard; again once it is, in secret."""
    caplog.set_level(logging.DEBUG)  # httpx would tell the address at level INFO
    bell.heard()
    thread = threading.Thread(target=switch(bell).run)
    said = ""

    def told(words: str) -> bool:
        nonlocal said
        read = capfd.readouterr()
        said += read.out + read.err
        return words in said

    thread.start()
    try:
        eventually(lambda: bell.http.asked >= 2, "asked twice")
        bell.heard(ago=60)
        eventually(lambda: told("not asked for"), "not asked any more")
        asked = bell.http.asked
        bell.heard()
        eventually(lambda: bell.http.asked > asked, "asked again")
        bell.http.mood = "refusing"
        eventually(lambda: told("answers 500"), "refused, and said so")
    finally:
        bell.stopping.set()
        thread.join(20)
    told("")
    assert SECRET not in caplog.text + said


def test_metrics_tell_how_many_notifications_are_in_which_state(bell: Bell) -> None:
    """Each configured target has each state, zeros included, and no other target has any."""
    for state in ("due", "due", "sent", "given up"):
        bell.put("http", state=state)
    bell.put("mail", state="perhaps")
    with bell.yard.engine.connect() as connection:
        told = outbox.counts(connection)
    postgres = PostgresFacts(totals=[], standings=[], beats={}, told=told)
    facts = Facts(redis=None, postgres=postgres, sources=None, breakers=[], replicas=0, targets=("http",))
    (family,) = [one for one in families(facts, now()) if one.name == "tocsin_notifications"]
    found = {(one.labels["target"], one.labels["state"]): one.value for one in family.samples}
    assert found == {
        ("http", "due"): 2,
        ("http", "sending"): 0,
        ("http", "sent"): 1,
        ("http", "perhaps"): 0,
        ("http", "given_up"): 1,
    }


def _let_be_due(bell: Bell) -> None:
    with bell.yard.engine.begin() as connection:
        connection.execute(update(notifications).values(next_try=func.now()))
