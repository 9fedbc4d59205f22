"""A line of the report."""

from typing import NamedTuple


class Finding(NamedTuple):
    """The result of a check of one part.

    Attributes:
        verdict: 'FAIL' stops or spoils the training, 'warn' may, 'note' and 'ok' do
            not.
        part: The checked part.
        text: The result.
        remedy: How to correct it.
    """

    verdict: str
    part: str
    text: str
    remedy: str = ''

    def __str__(self) -> str:
        """Return the line."""
        remedy = f'  -> {self.remedy}' if self.remedy else ''
        return f'{self.verdict:<5} {self.part:<15} {self.text}{remedy}'
