"""Checks of arguments; each error names the argument, its value and what is allowed."""

from collections.abc import Sequence
from typing import Any


def check_ints(name: str, value: Sequence[int], length: int | None = None) -> None:
    """Check that ``value`` holds ``length`` whole numbers of at least 1.

    Raises:
        ValueError: If it does not; the message names the argument and its value.
    """
    if not isinstance(value, Sequence) or not all(
        isinstance(v, int) and v >= 1 for v in value
    ):
        raise ValueError(f'{name} must be a list of whole numbers >= 1, got {value!r}.')
    if len(value) == 0 or length not in (None, len(value)):
        raise ValueError(
            f'{name} must have {length or "at least 1"} entries, one per stage, got '
            f'{len(value)}: {value!r}.'
        )


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Check that ``value`` is one of ``allowed``.

    Raises:
        ValueError: If it is not; the message names the argument and its value.
    """
    if value not in allowed:
        raise ValueError(f'{name} must be one of {list(allowed)}, got {value!r}.')


def check_subset(name: str, value: Sequence[Any], allowed: Sequence[Any]) -> None:
    """Check that ``value`` holds at least one of ``allowed``, and nothing else.

    Raises:
        ValueError: If it does not; the message names the argument and its value.
    """
    if not value or not set(value) <= set(allowed):
        raise ValueError(
            f'{name} must hold one or more of {list(allowed)}, got {value!r}.'
        )


def check_positive(name: str, value: float) -> None:
    """Check that ``value`` is above 0.

    Raises:
        ValueError: If it is not; the message names the argument and its value.
    """
    if not isinstance(value, int | float) or value <= 0:
        raise ValueError(f'{name} must be a number above 0, got {value!r}.')


def check_rate(name: str, value: float) -> None:
    """Check that ``value`` is a probability below 1.

    Raises:
        ValueError: If it is not; the message names the argument and its value.
    """
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f'{name} must be a number from 0 to below 1, got {value!r}.')


def check_kernels(name: str, value: Sequence[int], stride: int, width: int) -> None:
    """Check the kernel sizes of a cross-scale embedding.

    Args:
        name (str): The argument.
        value (Sequence[int]): Its value.
        stride (int): Stride of the embedding.
        width (int): Output width to be shared among the kernels.

    Raises:
        ValueError: If a kernel cannot be centred on its token, or the width does
            not split into a half, a quarter, ...; the message names the argument.
    """
    check_ints(name, value)
    if any(k < stride or (k - stride) % 2 for k in value):
        raise ValueError(
            f'{name} must hold {stride} or larger by a multiple of 2 (the stride is '
            f'{stride}), got {value!r}.'
        )
    if width % 2 ** (len(value) - 1):
        raise ValueError(
            f'{name}={value!r} does not fit: {len(value)} kernel sizes cannot share '
            f'{width} channels as a half, a quarter, ....'
        )
