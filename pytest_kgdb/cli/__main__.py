"""`python -m pytest_kgdb.cli`: the command, if it is not on PATH."""

import sys

from ._main import main

sys.exit(main())
