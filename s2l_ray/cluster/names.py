"""Names that Kubernetes and KubeRay accept, made of names that people give."""

from __future__ import annotations

import hashlib
import re

LONGEST_NAME = 47
"""Characters of a RayJob's name; the operator adds six for the RayCluster, whose name is part of a host name."""
_NAME = re.compile(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", re.ASCII)
DIGEST = 6
"""Characters of the digest in the name of a run whose own name is too long."""


def is_object_name(text: str) -> bool:
    """Whether a Kubernetes object can have this name (a DNS subdomain, RFC 1123)."""
    label = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    return len(text) <= 253 and re.fullmatch(rf"{label}(\.{label})*", text) is not None


def is_job_name(text: str) -> bool:
    """Whether a RayJob can have this name (a DNS label, RFC 1035, of at most 47 characters)."""
    return len(text) <= LONGEST_NAME and re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", text) is not None


def is_qualified(text: str) -> bool:
    """Whether a label, an annotation or a resource can have this name: [DNS subdomain/]name of at most 63."""
    prefix, slash, name = text.rpartition("/")
    return (not slash or is_object_name(prefix)) and len(name) <= 63 and _NAME.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Whether a label can have this value."""
    return not text or (len(text) <= 63 and _NAME.fullmatch(text) is not None)


def job_name(run: str) -> str:
    """A name for the RayJob of a run: `qwen3_1.7b_to_8b` becomes `qwen3-1-7b-to-8b`.

    A name that is too long is cut and gets a digest, so that two long names with one beginning stay apart.
    """
    label = dns_label(run)
    if not label or not label[0].isalpha():
        label = f"s2l-{label}".rstrip("-")
    if len(label) <= LONGEST_NAME:
        return label
    digest = hashlib.blake2b(run.encode(), digest_size=DIGEST // 2).hexdigest()
    return f"{label[: LONGEST_NAME - DIGEST - 1].rstrip('-')}-{digest}"


def dns_label(text: str) -> str:
    """Lower-case letters and digits with single dashes between them; empty if there are none."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
