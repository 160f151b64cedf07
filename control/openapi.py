"""The HTTP API's own description, OpenAPI 3.1, made from the types that the routes take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
from litestar.openapi import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, OpenAPIMediaType, Operation, RequestBody, SecurityScheme

DESCRIPTION = (
    "Reads say where they come from (`source`), how old they are (`age_seconds`) and whether to distrust "
    "them (`stale`). Writing needs a token or a session; reading does too where others than this machine "
    "can ask."
)


def openapi() -> OpenAPIConfig:
    """Serves `/api/openapi.json`, and no page that would load scripts from elsewhere."""
    schemes = {
        "bearer": SecurityScheme(
            type="http",
            scheme="bearer",
            description="A key's token (tocsin key create … --token), or the station's.",
        ),
        "session": SecurityScheme(
            type="apiKey", security_scheme_in="cookie", name="tocsin-session", description="POST /api/session"
        ),
        "csrf": SecurityScheme(
            type="apiKey", security_scheme_in="header", name="X-Tocsin-CSRF", description="GET /api/session"
        ),
    }
    return OpenAPIConfig(
        title="Tocsin",
        version=version("tocsin"),
        description=DESCRIPTION,
        path="/api",
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        components=Components(security_schemes=schemes),  # type: ignore[arg-type]  # a dict of schemes
        use_handler_docstrings=True,
    )


def documented(answers: Mapping[int, tuple[Any, str]]) -> dict[int, ResponseSpec]:
    """What a route may answer beside its own type: status → type and meaning."""
    return {
        status: ResponseSpec(kind, generate_examples=False, description=meaning)
        for status, (kind, meaning) in answers.items()
    }


def with_body(kind: type[msgspec.Struct], *, required: bool = False) -> type[Operation]:
    """An operation whose body is read by the route itself, as a `kind`."""
    schema: Any = msgspec.json.schema(kind)["$defs"][kind.__name__]

    @dataclass
    class WithBody(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(
                content={"application/json": OpenAPIMediaType(schema=schema)}, required=required
            )

    return WithBody
