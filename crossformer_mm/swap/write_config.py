"""Write a config that inherits a base, formatted like ruff."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

WIDTH = 88


class Change(NamedTuple):
    """A value that differs from the base.

    Attributes:
        path: Its keys, and indices in lists.
        value: The new value.
        note: A comment above it.
    """

    path: tuple[str | int, ...]
    value: Any
    note: str = ''


def config_text(base: str, changes: Sequence[Change]) -> str:
    """Return the text of a config."""
    settings: dict[str | int, Any] = {}
    in_lists = []
    for change in changes:
        if any(isinstance(key, int) for key in change.path):
            in_lists.append(change)
            continue
        node = settings
        for key in change.path[:-1]:
            node = node.setdefault(key, {})
        node[change.path[-1]] = change
    lines = [f'_base_ = {base!r}', '']
    for key, value in settings.items():
        lines += assignment(f'{key} = ', value, '')
    # Lists are inherited as a whole: change the entry in the base's list.
    for path, value, note in in_lists:
        name = ''.join(f'[{k}]' if isinstance(k, int) else f'.{k}' for k in path)
        lines += assignment(f'_base_{name} = ', Change(path, value, note), '')
    return '\n'.join(lines) + '\n'


def assignment(start: str, value: object, indent: str, end: str = '') -> list[str]:
    """Return the lines of ``start`` and a value, which may contain changes and notes.

    Args:
        start (str): Such as 'model = ' or 'neck='.
        value: A change, a dict, a sequence or a constant.
        indent (str): Spaces before each line.
        end (str): Text after the value. Defaults to ''.
    """
    comment = []
    if isinstance(value, Change):
        comment = textwrap.wrap(value.note, WIDTH - len(indent) - 2)
        comment = [f'{indent}# {line}' for line in comment]
        value = value.value
    line = indent + start + one_line(value) + end
    if len(line) <= WIDTH and not has_note(value):
        return [*comment, line]
    inner = indent + '    '
    if isinstance(value, dict):
        opening, closing = 'dict(', ')'
        entries = [assignment(f'{k}=', v, inner, ',') for k, v in value.items()]
    elif isinstance(value, (list, tuple)):
        opening, closing = '[]' if isinstance(value, list) else '()'
        entries = [assignment('', v, inner, ',') for v in value]
    else:
        return [*comment, line]
    lines = [line for entry in entries for line in entry]
    return [*comment, indent + start + opening, *lines, indent + closing + end]


def one_line(value: object) -> str:
    """Return a value on one line, its dicts as calls of ``dict``."""
    if isinstance(value, Change):
        return one_line(value.value)
    if isinstance(value, dict):
        return f'dict({", ".join(f"{k}={one_line(v)}" for k, v in value.items())})'
    if isinstance(value, list):
        return f'[{", ".join(map(one_line, value))}]'
    if isinstance(value, tuple):
        return f'({", ".join(map(one_line, value))}{"," * (len(value) == 1)})'
    return repr(value)


def has_note(value: object) -> bool:
    """Return whether there is a note inside a value."""
    if isinstance(value, Change):
        return bool(value.note) or has_note(value.value)
    return isinstance(value, dict) and any(map(has_note, value.values()))
