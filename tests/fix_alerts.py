"""What tests of alerts share: an alert as it stands in the log."""

from __future__ import annotations

from typing import Any

HEADER = "ZCZC-WXR-RWT-020103+0015-1211155-KEAX/NWS-"


def received(hearing: str, **changed: Any) -> dict[str, Any]:
    """The data of `alert.received`: a weekly test for Leavenworth County, unless told otherwise."""
    return {
        "hearing": hearing,
        "header": HEADER,
        "originator": "WXR",
        "originator_name": "National Weather Service",
        "event": "RWT",
        "event_name": "Required Weekly Test",
        "locations": ["020103"],
        "places": ["Leavenworth County, KS"],
        "valid_minutes": 15,
        "issued_at": "2026-05-01T11:55:00Z",
        "expires_at": "2026-05-01T12:10:00Z",
        "station": "KEAX/NWS",
        "problems": [],
        "bursts": 2,
        "confidence": 0.99,
        "confirmed": True,
        "voted": False,
        "start": 1.0,
        "end": 3.5,
        **changed,
    }
