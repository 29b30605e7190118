"""``python -m numscope`` is the command line."""

import sys

from numscope.cli import main

sys.exit(main())
