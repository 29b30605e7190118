"""Print the table of ratios to NumPy and PyTorch: ``python asv_benchmarks/peers.py --help``."""

import sys

from numscope.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
