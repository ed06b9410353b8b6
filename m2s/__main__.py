"""`python -m m2s` is `m2s`."""

import sys

from m2s.main import main

if __name__ == "__main__":
    sys.exit(main())
