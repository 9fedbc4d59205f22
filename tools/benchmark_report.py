"""Make the table and the picture of a `benchmark.csv` again.

python tools/benchmark_report.py work_dirs/benchmark/benchmark.csv
"""

import argparse
from pathlib import Path

from parts.benchmark_report import report


def main() -> None:
    """Report on the file of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('csv', type=Path, metavar='CSV')
    report(parser.parse_args().csv)


if __name__ == '__main__':
    main()
