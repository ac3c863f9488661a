"""python -m tests.benchmarks [NAME ...] [--out FILE]"""

import sys

from tests.benchmarks.runner import main

if __name__ == "__main__":
    sys.exit(main())
