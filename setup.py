"""Puts configs/ and cluster/inventories/ into the wheel, as s2l_ray/shipped/. All else is said in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {"configs": "s2l_ray/shipped/configs", "cluster/inventories": "s2l_ray/shipped/inventories"}


class BuildWithShippedFiles(build_py):
    """An editable install finds the two folders in the repository (s2l_ray/config/shipped.py)."""

    def run(self) -> None:
        """Build the packages, then copy the files beside them."""
        super().run()
        if self.editable_mode:
            return
        for folder, target in SHIPPED.items():
            for file in sorted(Path(folder).rglob("*.yaml")):
                copy = Path(self.build_lib, target, file.relative_to(folder))
                self.mkpath(str(copy.parent))
                self.copy_file(str(file), str(copy))


setup(cmdclass={"build_py": BuildWithShippedFiles})
