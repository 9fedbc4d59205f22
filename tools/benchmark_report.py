"""Recreate the table and plot of a `benchmark.csv`.

    python tools/benchmark_report.py work_dirs/benchmark/benchmark.csv

CSV is a file written by benchmark.py.
"""

import argparse
from pathlib import Path

from parts.benchmark_report import report


def main() -> None:
    """Report on the file given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('csv', type=Path, metavar='CSV')
    report(parser.parse_args().csv)


if __name__ == '__main__':
    main()
