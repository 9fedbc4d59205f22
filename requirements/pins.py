"""Read the pin files, for what installs and what examines an environment.

Uses only the standard library, and nothing that Python 3.8 cannot parse: whoever has
the wrong Python gets a line that says so instead of a syntax error.
"""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# How the OneDL forks name what OpenMMLab calls otherwise.
FORKS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmsegmentation': 'onedl-mmsegmentation',
    'openmim': 'onedl-mim',
}


class Pins:
    """The versions of a stack.

    Args:
        stack (str): A file beside this one, without its suffix.
    """

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.files = [FOLDER / f'{stack}.txt', FOLDER / 'common.txt']
        self.text = ''.join(path.read_text() for path in self.files)

    def note(self, pattern: str) -> str:
        """Return what ``pattern`` captures in the files, or nothing."""
        found = re.search(pattern, self.text, re.MULTILINE)
        return found[1] if found else ''

    def distribution(self, package: str) -> str:
        """Return what this stack calls a distribution of OpenMMLab."""
        return FORKS.get(package, package) if self.stack == 'onedl' else package

    def version(self, package: str) -> str:
        """Return the version of a package, or nothing."""
        return self.note(rf'^{re.escape(self.distribution(package))}==([^\s;]+)')

    def pin(self, package: str) -> str:
        """Return a package as pip wants it, such as 'torch==2.13.0'."""
        return f'{self.distribution(package)}=={self.version(package)}'

    def torch(self, gpu: str) -> list[str]:
        """Return what pip installs as torch: the CPU build where there is no GPU."""
        torch = self.pin('torch')
        if self.has_cpu_build(gpu):
            return [f'{torch}+cpu', '--extra-index-url', self.cpu_index]
        # == would be content with a CPU build that is there or a local folder offers.
        return [torch.replace('==', '===')]

    @property
    def pythons(self) -> list[str]:
        """The versions of Python that the stack is tried on, the newest first."""
        return self.note(r'^# Python: (.+)$').split()

    @property
    def cpu_index(self) -> str:
        """Where the CPU build of torch is; nothing where the stack takes none."""
        return self.note(r'^torch==.*CPU on (\S+)')

    def has_cpu_build(self, gpu: str) -> bool:
        """Return whether the stack takes the CPU build of torch on this machine."""
        return bool(self.cpu_index and not gpu)


def installed(distribution: str) -> str:
    """Return the version of a distribution in this environment, or nothing."""
    for found in distributions(name=distribution):
        return found.version
    return ''


def installed_stack() -> str:
    """Return the stack that this environment comes nearest to."""
    if installed('onedl-mmengine'):
        return 'onedl'
    return 'torch21' if installed('torch').startswith('2.1.') else 'openmmlab'


def compute_capability() -> str:
    """Return the compute capability of the first NVIDIA GPU, or nothing."""
    query = ['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader']
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ''
    return answer.stdout.split('\n')[0].strip()
