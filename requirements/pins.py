"""Read the pin files, to install or check an environment.

Uses only the standard library and syntax of Python 3.8, so that users of an unsupported
Python get an error message instead of a syntax error.
"""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# OpenMMLab's distributions and their names in the OneDL forks.
FORKS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmsegmentation': 'onedl-mmsegmentation',
    'openmim': 'onedl-mim',
}


class Pins:
    """The pinned versions of a stack.

    Args:
        stack (str): The name of a .txt file beside this one, without its suffix.
    """

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.files = [FOLDER / f'{stack}.txt', FOLDER / 'common.txt']
        self.text = ''.join(path.read_text() for path in self.files)

    def note(self, pattern: str) -> str:
        """Return the group captured by ``pattern`` in the files, or ''."""
        found = re.search(pattern, self.text, re.MULTILINE)
        return found[1] if found else ''

    def distribution(self, package: str) -> str:
        """Return this stack's name for a distribution of OpenMMLab."""
        return FORKS.get(package, package) if self.stack == 'onedl' else package

    def version(self, package: str) -> str:
        """Return the pinned version of a package, or ''."""
        return self.note(rf'^{re.escape(self.distribution(package))}==([^\s;]+)')

    def pin(self, package: str) -> str:
        """Return the requirement for pip, such as 'torch==2.13.0'."""
        return f'{self.distribution(package)}=={self.version(package)}'

    def torch(self, gpu: str) -> list[str]:
        """Return pip's arguments for torch: the CPU build if there is no GPU."""
        torch = self.pin('torch')
        if self.has_cpu_build(gpu):
            return [f'{torch}+cpu', '--extra-index-url', self.cpu_index]
        # == would accept a CPU build that is installed or in a local folder.
        return [torch.replace('==', '===')]

    @property
    def pythons(self) -> list[str]:
        """The versions of Python that the stack is tested on, newest first."""
        return self.note(r'^# Python: (.+)$').split()

    @property
    def cpu_index(self) -> str:
        """The index URL of torch's CPU build, or '' if the stack does not use it."""
        return self.note(r'^torch==.*CPU on (\S+)')

    def has_cpu_build(self, gpu: str) -> bool:
        """Return whether to install the CPU build: there is one, and no GPU."""
        return bool(self.cpu_index and not gpu)


def installed(distribution: str) -> str:
    """Return the version of a distribution in this environment, or ''."""
    for found in distributions(name=distribution):
        return found.version
    return ''


def installed_stack() -> str:
    """Return the stack that is closest to this environment."""
    if installed('onedl-mmengine'):
        return 'onedl'
    return 'torch21' if installed('torch').startswith('2.1.') else 'openmmlab'


def compute_capability() -> str:
    """Return the compute capability of the first NVIDIA GPU, or ''."""
    query = ['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader']
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ''
    return answer.stdout.split('\n')[0].strip()
