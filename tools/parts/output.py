"""Fail with a message, write files completely or not at all, and save figures."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # most commands do not need matplotlib
    from matplotlib.figure import Figure


def fail(message: str) -> NoReturn:
    """Exit with code 1 and a message on stderr."""
    sys.exit(f'{Path(sys.argv[0]).stem}: {message}')


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; move it to ``path`` when it is complete.

    After an error nothing is written and an older file is kept. Files written beside
    the yielded path are moved as well.
    """
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f'.{target.name}-'
        with TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
            yield Path(folder, target.name)
            for part in Path(folder).iterdir():
                part.replace(target.with_name(part.name))
    except OSError as error:
        fail(f'{path} cannot be written: {error}')


def save_figure(figure: 'Figure', path: Path) -> Path:
    """Save a figure; return its path."""
    with complete(path) as part:
        figure.savefig(part)
    return path
