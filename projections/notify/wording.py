"""What a notification says."""

from __future__ import annotations

from projections.notify.episodes import PLAYED
from projections.notify.outbox import Notification

_TOLD = {
    "source.failed": "source {} failed",
    "source.stalled": "source {} stalled",
    "silence": "source {} is silent",
    "heartbeat": "ingest node {} is not heard",
    "parked": "command {} was set aside",
    "trouble": "lane {} cannot be followed",
    "verify": "the log of lane {} is not sound",
    "alert": "alert received by source {}",
}
_NEXT = {
    "source.failed": "tocsin source show {}",
    "source.stalled": "tocsin source show {}",
    "silence": "tocsin source show {}",
    "heartbeat": "tocsin doctor",
    "parked": "tocsin parked show {}",
    "trouble": "tocsin doctor",
    "verify": "tocsin audit verify",
    "alert": "tocsin event tail",
}


def words(notification: Notification, station: str) -> tuple[str, str]:
    """Title and text of a notification."""
    # On one line, whoever has written it: it goes into the head of a mail.
    subject = " ".join(notification.subject.split())
    told = _TOLD[notification.kind].format(subject)
    if (notification.detail or "").startswith(PLAYED):
        told = f"test, no alert: {told}"
    again = f" (still, {notification.number})" if notification.number else ""
    lines = [f"{told[0].upper()}{told[1:]}."]
    if notification.detail:
        lines.append(notification.detail)
    lines.append(f"Since {notification.opened_at:%Y-%m-%d %H:%M:%S} UTC")
    if notification.closed_at:
        lines[-1] += f", over since {notification.closed_at:%Y-%m-%d %H:%M:%S} UTC"
    if notification.lane:
        event = f", event {notification.seq}" if notification.seq else ""
        lines.append(f"Lane {notification.lane}{event}")
    if notification.expires_at and not notification.closed_at:
        lines.append(f"In force until {notification.expires_at:%Y-%m-%d %H:%M:%S} UTC")
    lines.append(f"Look: {_NEXT[notification.kind].format(subject)}")
    lines.append(f"Seen to: tocsin alert acknowledge {notification.episode}")
    lines.append(f"Rule {notification.rule}, notification {notification.id}")
    return f"[{station}] {told}{again}", "\n".join(lines)
