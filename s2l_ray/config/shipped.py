"""The configurations, studies, experiments and inventories that s2l-ray ships, and how a file that may be one is found.

In the repository they are the top-level folders configs/ and cluster/inventories/. setup.py puts them into the wheel,
so that `s2l train quickstart` works wherever the package is installed.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SUFFIX = ".yaml"
STUDY = "tune_"
"""How the name of a study's file begins."""
EXPERIMENT = "experiments/"
"""The folder of experiments, in that of configurations."""


@dataclass(frozen=True)
class ShippedFiles:
    """YAML files that have a name: their path in the folder, without the suffix."""

    folder: str
    """In s2l_ray/shipped/, where the package was installed from a wheel."""
    source: str
    """In the repository, where the package is imported from there."""
    studies: bool = False
    """Which of the folder's files are meant: studies, whose names begin with tune_, or the others."""

    def paths(self) -> dict[str, Path]:
        """The path of each file, by name, sorted."""
        installed = PACKAGE / "shipped" / self.folder
        folder = installed if installed.is_dir() else PACKAGE.parent / self.source
        files = sorted(file for file in folder.rglob(f"*{SUFFIX}") if file.name.startswith(STUDY) == self.studies)
        names = {file.relative_to(folder).as_posix().removesuffix(SUFFIX): file for file in files}
        return {name: file for name, file in names.items() if not name.startswith(EXPERIMENT)}

    def find(self, name: str | Path, directory: Path = Path(), but: Path | None = None) -> Path:
        """The file that a user means by `name`: a path, with or without .yaml, or else the name of a shipped file.

        Args:
            directory: what paths are relative to.
            but: a file that is not meant, as by `extends: quickstart` in quickstart.yaml.

        Returns:
            `directory / name` where there is no such file; `hint` says what could have been meant.
        """
        given = directory / name
        candidates = (given, Path(f"{given}{SUFFIX}"))
        # os.path.isfile, unlike Path.is_file, is false for a path that the operating system refuses.
        found = next((path for path in candidates if os.path.isfile(path) and path != but), None)
        return found or self.paths().get(str(name), given)

    def hint(self, name: str | Path) -> str:
        """What could be meant by a name that is not found, such as "did you mean quickstart? s2l-ray ships ..."."""
        names = list(self.paths())
        if re.match(r"\w+(\.\w+)+=|\w+=[^/]*$", str(name)):  # a path may have "=" in it, too
            return f"the file or name comes first, then keys such as {name}; s2l-ray ships {', '.join(names)}"
        bare = Path(name).name.removesuffix(SUFFIX)
        by_ending = {known.rpartition("/")[2]: known for known in names}
        nearest = difflib.get_close_matches(bare, by_ending, n=1, cutoff=0.6)
        meant = f"did you mean {by_ending[nearest[0]]}? " if nearest else ""
        return f"{meant}s2l-ray ships {', '.join(names)}"


CONFIGURATIONS = ShippedFiles("configs", "configs")
STUDIES = ShippedFiles("configs", "configs", studies=True)
EXPERIMENTS = ShippedFiles("configs/experiments", "configs/experiments")
INVENTORIES = ShippedFiles("inventories", "cluster/inventories")
