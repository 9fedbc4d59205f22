"""A line of the report."""

from typing import NamedTuple


class Finding(NamedTuple):
    """What was found out about one part.

    Attributes:
        verdict: 'FAIL' stops or spoils the training, 'warn' may, 'note' and 'ok' do
            not.
        part: What was examined.
        found: What is the case.
        mend: What to do about it.
    """

    verdict: str
    part: str
    found: str
    mend: str = ''

    def __str__(self) -> str:
        """Return the line."""
        mend = f'  -> {self.mend}' if self.mend else ''
        return f'{self.verdict:<5} {self.part:<15} {self.found}{mend}'
