"""Hiding passwords in text that is shown, logged or written."""

from __future__ import annotations

import re

_NAMES = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY)", re.IGNORECASE)
_USER = re.compile(r"://(?:[^/\s:@]*:(?!\d+(?:[/?#]|$))\S*|[^/\s]*)@")
"""user:password@ or token@. A password may have a slash that should have been quoted; a port is none."""
_QUERY = re.compile(
    r"([?&;](?:[\w-]*(?:password|passwd|pwd|token|secret|secret_key|signature)|access_key|api_?key|sig)=)[^&;\s]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` without the user:password@ of URIs and the passwords, tokens and keys of their queries."""
    return _QUERY.sub(r"\1***", _USER.sub("://***@", text))


def is_secret_name(name: str) -> bool:
    """Whether the name of an environment variable says that its value is a secret."""
    return bool(_NAMES.search(name))


def has_password(text: str) -> bool:
    """Whether a text has a URI with what `redact` hides."""
    return redact(text) != text
