"""The commands that pip installs."""

import sys
from pathlib import Path
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """End the command with exit code 1 and a message on stderr."""
    sys.exit(f'{Path(sys.argv[0]).stem}: {message}')
