"""`python -m pytest_kgdb.cli`: the command, where it is not on the path."""

import sys

from ._main import main

sys.exit(main())
