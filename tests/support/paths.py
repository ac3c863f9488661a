"""Where the checkout lies, and the data sets that tests read where they are there."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = Path(os.environ.get("S2L_SHARED_DATA", ROOT.parent / "shared" / "data"))
