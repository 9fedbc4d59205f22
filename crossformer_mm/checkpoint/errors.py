"""Errors of unusable checkpoints, and formatting of names in their messages."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 80  # characters of a name in a message


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message has its name, reason and remedy."""

    def __init__(self, message: str) -> None:
        # Names and reasons come from untrusted files and servers.
        super().__init__(one_line(message))


class DamagedError(CheckpointError):
    """A file is truncated or damaged."""


class RefusedError(CheckpointError):
    """A file contains more than data."""

    def __init__(self, problem: str) -> None:
        super().__init__(f'is refused: {problem}. Nothing of it was run.')


def require(condition: object, problem: str) -> None:
    """Refuse the file unless a condition is true.

    Raises:
        RefusedError: If it is false.
    """
    if not condition:
        raise RefusedError(problem)


@contextmanager
def error_context(source: str | Path) -> Iterator[None]:
    """Prefix errors raised inside with the name of the file."""
    try:
        yield
    except CheckpointError as error:
        error.args = (one_line(f'{source} {error}'),)
        raise


def one_line(text: str) -> str:
    """Escape unprintable characters, such as line breaks."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable(name: object) -> str:
    """Return a name from a file in ASCII, cut after 80 characters."""
    text = ascii(str(name)[: LONGEST + 1])[1:-1]
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 3]}...'


def first_few(names: Iterable[object]) -> str:
    """List the first three names, and the number of further ones."""
    texts = [printable(name) for name in names]
    more = f' and {len(texts) - 3} more' if len(texts) > 3 else ''
    return ', '.join(texts[:3]) + more
