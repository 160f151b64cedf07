"""Receivers of notifications, real ones that can be made to fail: a mail server and an HTTP server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from control.station.ports import LOOPBACK, free_port
from projections.notify.delivery import HEADER, load
from projections.notify.keeping import LIVE
from projections.notify.sender import Sender
from projections.tables import episodes, heartbeats, marks, notifications
from streams.messages import now
from streams.notices import NotifySection, Rule, Target
from tests.fix_projections import LANE, Chain, Yard

SECRET = "s3cr3t-t0ken"
Mood = Literal["well", "refusing", "hanging"]


class HttpReceiver:
    """Takes what apprise sends to json:// addresses, and the dead man's questions."""

    def __init__(self) -> None:
        self.mood: Mood = "well"
        self.port = free_port()
        self.patience = 0.5
        self.taken: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.asked = 0
        self.attempts = 0
        self._release = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """For apprise, with a secret in it and little patience (seconds)."""
        return f"json://ops:{SECRET}@{LOOPBACK}:{self.port}/{SECRET}?rto={self.patience}&cto=0.5"

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.taken]

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.attempts += 1
                if receiver.mood == "hanging":
                    receiver._release.wait(20)
                    return
                if receiver.mood == "well":
                    receiver.taken.append(json.loads(body))
                    receiver.ids.append(self.headers[HEADER])
                self.send_response(200 if receiver.mood == "well" else 500)
                self.end_headers()

            def do_GET(self) -> None:
                receiver.asked += 1
                self.send_response(200 if receiver.mood == "well" else 500)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._release.clear()
        self._server = ThreadingHTTPServer((LOOPBACK, self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._release.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class MailReceiver:
    """A mail server that takes what comes, without TLS or login."""

    def __init__(self) -> None:
        self.mood: Mood = "well"
        self.port = free_port()
        self.taken: list[Message] = []
        self.attempts = 0
        self._controller: Controller | None = None

    @property
    def address(self) -> str:
        to = f"from=tocsin@example.org&to={SECRET}@example.org"
        return f"mailto://{LOOPBACK}:{self.port}?{to}&mode=insecure&cto=0.5"

    @property
    def titles(self) -> list[str]:
        return [str(one["Subject"]) for one in self.taken]

    @property
    def ids(self) -> list[str]:
        return [str(one[HEADER]) for one in self.taken]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.attempts += 1
        if self.mood == "hanging":
            await asyncio.sleep(20)
        if self.mood != "well":
            return "451 come back later"
        assert isinstance(envelope.content, bytes)
        self.taken.append(message_from_bytes(envelope.content))
        return "250 taken"

    def start(self) -> None:
        self._controller = Controller(self, hostname=LOOPBACK, port=self.port)
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None


class NowChain(Chain):
    """Events that happen now, or so many seconds `ago`."""

    def __init__(self, ago: float = 0) -> None:
        super().__init__()
        self.ago = ago

    def moment(self) -> datetime:
        return now() - timedelta(seconds=self.ago)


class Bell:
    """A station whose projections notify, and its two receivers."""

    def __init__(self, yard: Yard, folder: Path) -> None:
        self.yard = yard
        self.folder = folder
        self.http = HttpReceiver()
        self.mail = MailReceiver()
        self.stopping = threading.Event()

    def receiver(self, name: Literal["http", "mail"]) -> HttpReceiver | MailReceiver:
        """The receiver of that name."""
        return self.http if name == "http" else self.mail

    def target(self, name: Literal["http", "mail"], **more: Any) -> Target:
        """The settings of a receiver, its address in a file."""
        file = self.folder / f"{name}.url"
        file.write_text(f"{self.receiver(name).address}\n")
        file.chmod(0o600)
        return Target(name=name, url_file=str(file), **more)

    def ringing(self, *rules: Rule, **more: Any) -> Yard:
        """The yard with these rules."""
        names = dict.fromkeys(name for rule in rules for name in rule.to)
        targets = more.pop("targets", tuple(self.target(name) for name in names))  # type: ignore[arg-type]
        notify = NotifySection(rules=rules, targets=targets, **more)
        return Yard(msgspec.structs.replace(self.yard.settings, notify=notify))

    def put(self, name: Literal["http", "mail"], **more: Any) -> int:
        """An episode with one notification that is due, as the watcher leaves them; its number."""
        at, seq = now(), len(self.episodes()) + 1
        about = {"rule": "failures", "kind": "source.failed", "subject": f"mic-{seq}", "source": "mic"}
        opened = {**about, "lane": LANE, "seq": seq, "detail": "", "opened_at": at, "repeats": 0}
        due = {"target": name, "number": 0, "state": "due", "attempts": 0, "created_at": at, "next_try": at}
        with self.yard.engine.begin() as connection:
            found = connection.execute(insert(episodes).values(**opened).returning(episodes.c.id))
            number: int = found.scalar_one()
            connection.execute(insert(notifications).values(episode=number, **{**due, **more}))
        return number

    def heard(self, ago: float = 0) -> None:
        """The station's node was last heard so many seconds ago, as Postgres keeps it."""
        at = now() - timedelta(seconds=ago)
        put = insert(heartbeats).values(node="local", at=at)
        with self.yard.engine.begin() as connection:
            connection.execute(put.on_conflict_do_update(index_elements=["node"], set_={"at": at}))

    def sender(self, name: Literal["http", "mail"], *, dedups: bool = False, **more: Any) -> Sender:
        """A sender to that receiver, not started."""
        return Sender(self.yard.engine, "test", self.target(name, dedups=dedups), self.stopping, **more)

    @contextmanager
    def sending(self, sender: Sender) -> Iterator[None]:
        """The sender's thread."""
        thread = threading.Thread(target=sender.run, name="sender")
        thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            thread.join(timeout=30)
            assert not thread.is_alive()
            self.stopping.clear()

    def episodes(self) -> list[dict[str, Any]]:
        with self.yard.engine.connect() as connection:
            return [row._asdict() for row in connection.execute(select(episodes).order_by(episodes.c.id))]

    def notifications(self) -> list[dict[str, Any]]:
        table = notifications
        wanted = select(table).order_by(table.c.episode, table.c.target, table.c.number)
        with self.yard.engine.connect() as connection:
            return [row._asdict() for row in connection.execute(wanted)]

    def live(self) -> bool:
        """Whether the notifier has begun."""
        with self.yard.engine.connect() as connection:
            return connection.execute(select(marks).where(marks.c.name == LIVE)).first() is not None

    def states(self) -> list[str]:
        """The states of all notifications, by episode, target and number."""
        return [one["state"] for one in self.notifications()]


def rule(name: str = "failures", on: str = "source.failed", **more: Any) -> Rule:
    """A rule, to http unless said otherwise."""
    return msgspec.convert({"name": name, "on": on, "to": ["http"], **more}, Rule)


@pytest.fixture
def bell(yard: Yard, tmp_path: Path) -> Iterator[Bell]:
    """A station and running receivers."""
    load()
    bell = Bell(yard, tmp_path)
    bell.http.start()
    bell.mail.start()
    yield bell
    bell.http.stop()
    bell.mail.stop()
