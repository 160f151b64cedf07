"""A web server one of whose answers never ends: `python -m tests.programs.hanging_web PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from control.serve import serve


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Begin an answer and never end it, whatever the client or the server wish."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    await asyncio.Event().wait()


if __name__ == "__main__":
    serve(app, host="127.0.0.1", port=int(sys.argv[1]), before_stop=lambda: None)
