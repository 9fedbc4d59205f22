"""Read and write the CSV file from which an interrupted comparison resumes."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .output import complete

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of an earlier run, if any, with strings as values."""
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, fields: Sequence[str], rows: list[Row]) -> None:
    """Write all rows, completely or not at all."""
    with complete(path) as part, part.open('w', newline='') as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
