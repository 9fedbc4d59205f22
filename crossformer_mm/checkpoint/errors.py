"""Errors of a checkpoint that cannot be used, and how they show its names."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 80  # of a name in a message


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says which, why and what to do."""

    def __init__(self, message: str) -> None:
        # Names and reasons come from files and servers that nobody has checked.
        super().__init__(one_line(message))


class DamagedError(CheckpointError):
    """A file is not whole, or not what was written."""


class RefusedError(CheckpointError):
    """A file asks for more than to be read as data."""

    def __init__(self, problem: str) -> None:
        super().__init__(f'is refused: {problem}. Nothing of it was run.')


def require(condition: object, problem: str) -> None:
    """Refuse the file unless a condition holds.

    Raises:
        RefusedError: If it does not.
    """
    if not condition:
        raise RefusedError(problem)


@contextmanager
def error_context(source: str | Path) -> Iterator[None]:
    """Put the name of the file in front of the errors that are raised inside."""
    try:
        yield
    except CheckpointError as error:
        error.args = (one_line(f'{source} {error}'),)
        raise


def one_line(text: str) -> str:
    """Replace what is not printable, such as a line break, by its number."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable(name: object) -> str:
    """Return a name from a file in ASCII, cut after 80 characters."""
    text = ascii(str(name)[: LONGEST + 1])[1:-1]
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 3]}...'


def first_few(names: Iterable[object]) -> str:
    """List the first three names, and how many there are beyond."""
    texts = [printable(name) for name in names]
    more = f' and {len(texts) - 3} more' if len(texts) > 3 else ''
    return ', '.join(texts[:3]) + more
