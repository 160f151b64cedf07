"""A keyring for tests: a file in place of the operating system's. Named by PYTHON_KEYRING_BACKEND."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class KeyringInFile(KeyringBackend):
    """Keeps passwords in the file that TEST_KEYRING names."""

    priority = 1  # type: ignore[assignment]  # as the library's own back ends have it

    def _read(self) -> dict[str, str]:
        path = Path(os.environ["TEST_KEYRING"])
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def get_password(self, service: str, username: str) -> str | None:
        return self._read().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        Path(os.environ["TEST_KEYRING"]).write_text(
            json.dumps({**self._read(), f"{service} {username}": password})
        )

    def delete_password(self, service: str, username: str) -> None:
        kept = self._read()
        if kept.pop(f"{service} {username}", None) is None:
            raise PasswordDeleteError(username)
        Path(os.environ["TEST_KEYRING"]).write_text(json.dumps(kept))
