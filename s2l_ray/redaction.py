"""Hiding passwords in text that is shown, logged or written."""

from __future__ import annotations

import re

_USER = re.compile(r"://(?:[^/\s:@]*:(?!\d+(?:[/?#]|$))\S*|[^/\s]*)@")
"""user:password@ or token@. A password may have a slash that should have been quoted; a port is none."""
_QUERY = re.compile(
    r"([?&;](?:[\w-]*(?:password|passwd|pwd|token|secret|secret_key|signature)|access_key|api_?key|sig)=)[^&;\s]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` without the user:password@ of URIs and the passwords, tokens and keys of their queries."""
    return _QUERY.sub(r"\1***", _USER.sub("://***@", text))


def has_password(text: str) -> bool:
    """Whether a text has a URI with what `redact` hides."""
    return redact(text) != text
