"""vLLM, and Ray's private parts, are known in one place each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PRIVATE_RAY = (
    "ray._common",
    "ray._private",
    "ray._raylet",
    "ray.core.generated",
    "ray.train._internal",
    "ray.tune._internal",
)


def python_files(but: Path) -> list[Path]:
    files = [path for room in ("s2l_ray", "actors") for path in (ROOT / room).rglob("*.py")]
    return [path for path in files if but != path and but not in path.parents]


def names_in(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported, or read as attributes of a plain name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def users(of: tuple[str, ...], but: Path) -> dict[str, str]:
    """File and name of whatever uses one of these packages."""
    return {
        f"{path.relative_to(ROOT)}": name
        for path in python_files(but)
        for name in names_in(ast.parse(path.read_text(encoding="utf-8")))
        if any(name == package or name.startswith(f"{package}.") for package in of)
    }


@pytest.mark.parametrize(
    ("packages", "bridge"),
    [(("vllm",), ROOT / "s2l_ray" / "vllm_bridge"), (PRIVATE_RAY, ROOT / "s2l_ray" / "ray_bridge.py")],
)
def test_only_its_bridge_uses_it(packages: tuple[str, ...], bridge: Path) -> None:
    assert users(packages, but=bridge) == {}
    assert users(packages, but=ROOT / "nothing")  # the search finds what the bridge itself uses
