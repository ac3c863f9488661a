"""The user's own code that a configuration brings into a run: which functions, from which files, with what contents.

A configuration can name functions (`module:function`), and nothing else in it runs code. A run keeps this record in its
run.json, shows it when it starts, and gives it to MLflow, so that whoever looks at a run knows what ran in it.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2l_ray.config.extension_points import extensions
from s2l_ray.config.run import Config
from s2l_ray.extensions import defining_module


@dataclass(frozen=True)
class OwnFunction:
    """A function of the user's that a key names."""

    key: str
    name: str
    """As the key has it: module:function."""
    files: dict[str, str]
    """SHA-256 of the contents, by path: of the module that is named, and of the one that defines the function, where
    that is another one. Empty where there is no file, as in a notebook."""

    def describe(self) -> str:
        """Such as `verifier.kind=mine:check from /home/me/mine.py (sha256 0123456789ab)`."""
        files = ", ".join(f"{path} (sha256 {digest[:12]})" for path, digest in self.files.items())
        return f"{self.key}={self.name} from {files or 'no file'}"

    def record(self) -> dict[str, Any]:
        """As run.json has it."""
        return asdict(self)


def own_functions(config: Config) -> list[OwnFunction]:
    """Every function of a configuration that is not this package's.

    Raises:
        ConfigError: one cannot be imported.
    """
    found = []
    for key, registry, name in extensions(config):
        if registry.is_built_in(name):
            continue
        function = registry.resolve(name, key)
        modules = (sys.modules[name.partition(":")[0]], defining_module(function))
        paths = [getattr(module, "__file__", None) for module in modules]
        found.append(OwnFunction(key, name, {path: _digest(Path(path)) for path in paths if path}))
    return found


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:  # within an archive, or removed since it was imported
        return f"unreadable: {error.strerror}"
