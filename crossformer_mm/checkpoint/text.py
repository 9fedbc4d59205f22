"""What a stranger wrote, shown so that it can do nothing to a terminal."""

from typing import Any

LONGEST = 80


def shown(name: Any) -> str:
    """Show a name from a file: in ASCII, and its first 80 characters."""
    text = ascii(str(name)[: LONGEST + 1])[1:-1]
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 3]}...'


def one_line(text: str) -> str:
    """Show what is no printable character, such as a line break, by its number."""
    if text.isprintable():
        return text
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
