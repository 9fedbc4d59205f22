"""Tell what in this environment would break a training, and how to mend it.

    python tools/check_env.py

Prints one line per part: verdict, what is found, what is wanted and the command that
mends it. 'warn' means untried but able to train. Ends with exit code 1 when anything
says FAIL. Needs nothing but Python itself: whatever else is missing or broken is what
it is there to tell.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import platform
import re
import shlex
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / 'requirements'
# The forks of OpenMMLab's packages have the same modules.
ONEDL = bool(list(metadata.distributions(name='onedl-mmengine')))
FORKS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmsegmentation': 'onedl-mmsegmentation',
    'openmim': 'onedl-mim',
}
STACK = 'onedl.txt' if ONEDL else 'openmmlab.txt'
PINS = ''.join((FOLDER / name).read_text() for name in (STACK, 'common.txt'))
CPU_INDEX = r'^torch==.*CPU on (\S+)'
PIP = f'{shlex.quote(sys.executable)} -m pip'


class Check(NamedTuple):
    """What was found out about one part."""

    part: str
    found: str
    wanted: str
    verdict: str
    mend: str = ''


def main() -> int:
    """Run all checks and return the exit code."""
    warnings.simplefilter('ignore')
    print_line(Check('part', 'found', 'wanted', 'verdict', 'mend with'))
    failed = False
    # Printed one by one: should a broken extension bring Python down, the last line
    # tells how far it came.
    for check in (
        check_python,
        check_setuptools,
        check_numpy,
        check_opencv,
        check_torch,
        check_cuda,
        check_mmengine,
        check_mmcv,
        check_mmcv_ops,
        check_mmdet,
        check_mmseg,
        check_mmseg_namesake,
        check_pycocotools,
        check_mim,
        check_plugin_in_mmdet,
        check_plugin_in_mmseg,
    ):
        result = check()
        print_line(result)
        failed |= result.verdict == 'FAIL'
    return int(failed)


def print_line(check: Check) -> None:
    """Print one line of the table."""
    mend = f'  -> {check.mend}' if check.mend else ''
    line = f'{check.verdict:<7}  {check.part:<15}  {check.found:<24}  {check.wanted}'
    print(line + mend, flush=True)


# The parts


def check_python() -> Check:
    """Python: the version and whether the stack was tried on it."""
    tried = note(r'^# Python: (.+)$')
    version = platform.python_version()
    verdict = 'ok' if version.rpartition('.')[0] in tried.split(', ') else 'warn'
    mend = '' if verdict == 'ok' else 'make env PYTHON=python3.11'
    return Check('Python', version, tried.replace(', ', ' or '), verdict, mend)


def check_setuptools() -> Check:
    """setuptools: mmengine and openmim import its pkg_resources, gone in 82."""
    return check_package('setuptools', 'setuptools', module='pkg_resources')


def check_numpy() -> Check:
    """numpy: it must load, and be one that torch can exchange arrays with."""
    check = check_package('numpy', 'numpy')
    if check.verdict == 'FAIL' or importing('torch'):
        return check
    try:
        import numpy
        import torch

        torch.from_numpy(numpy.zeros(1))
    except Exception as error:
        return failure('numpy', error, check.wanted, install('numpy'))
    return check


def check_opencv() -> Check:
    """OpenCV: any of its distributions will do that loads."""
    wanted = pinned('opencv-python-headless')
    # opencv-python, which mmengine asks for, needs libGL and owns the same files.
    mend = f'{PIP} uninstall -y opencv-python && '
    mend += f'{install("opencv-python-headless")} --force-reinstall'
    error = importing('cv2')
    if error:
        return failure('OpenCV', error, wanted, mend)
    found = sys.modules['cv2'].__version__
    # Its distributions carry a fourth number that its module does not have.
    verdict = 'ok' if wanted.startswith(f'{found}.') else 'warn'
    return Check('OpenCV', found, wanted, verdict, '' if verdict == 'ok' else mend)


def check_torch() -> Check:
    """torch: the version; any build of it."""
    check = check_package('torch', 'torch')
    if check.verdict == 'warn' and numbers(check.found)[:2] < [2, 10]:
        # Our own reader has no part in it.
        unsafe = '; before 2.10 torch.load is open to CVE-2026-24747'
        return check._replace(wanted=check.wanted + unsafe)
    return check


def numbers(version: str) -> list[int]:
    """Return the numbers of a version, such as 2.1.2+cu121."""
    return [int(number) for number in re.findall(r'\d+', version.partition('+')[0])]


def check_cuda() -> Check:
    """CUDA: with an NVIDIA driver torch should be able to use it."""
    driver = has_driver()
    wanted = 'usable' if driver else 'no need, no driver'
    if importing('torch'):
        return Check('CUDA', 'no torch', wanted, 'FAIL', install('torch'))
    import torch

    build = torch.version.cuda
    if build and torch.cuda.is_available():
        return Check('CUDA', f'{build}, usable', wanted, 'ok')
    found = f'{build}, not usable' if build else 'CPU build of torch'
    if not driver:
        return Check('CUDA', found, wanted, 'ok')
    mend = f'update the NVIDIA driver for CUDA {build}' if build else install('torch')
    # A training runs on the CPU as well, only slowly.
    return Check('CUDA', found, wanted, 'warn', mend)


def check_mmengine() -> Check:
    """mmengine: the version."""
    return check_package('mmengine', 'mmengine')


def check_mmcv() -> Check:
    """mmcv: the version."""
    return check_package('mmcv', 'mmcv')


def check_mmcv_ops() -> Check:
    """Compiled ops of mmcv: they load with the very torch they were compiled for."""
    wanted = 'compiled for this torch'
    error = importing('torch') or importing('mmcv._ext')
    if error:
        mend = install('torch' if importing('torch') else 'mmcv')
        return failure('mmcv._ext', error, wanted, mend)
    return Check('mmcv._ext', 'loads', wanted, 'ok')


def check_mmdet() -> Check:
    """mmdet: the version, and that it accepts this mmcv."""
    return check_package('mmdet', 'mmdet', also=mmcv_range('mmdet'))


def check_mmseg() -> Check:
    """mmsegmentation: the version, and that it accepts this mmcv."""
    name = 'mmsegmentation'
    return check_package('mmsegmentation', name, module='mmseg', also=mmcv_range(name))


def check_mmseg_namesake() -> Check:
    """mmseg: a word segmenter that overwrites files of mmsegmentation."""
    found = version_of('mmseg')
    if found is None:
        return Check('mmseg', 'not there', 'not there', 'ok')
    mend = f'{PIP} uninstall -y mmseg && '
    mend += f'{install("mmsegmentation")} --force-reinstall'
    return Check('mmseg', f'{found}, a segmenter', 'not there', 'FAIL', mend)


def check_pycocotools() -> Check:
    """pycocotools: its compiled part loads."""
    return check_package('pycocotools', 'pycocotools', module='pycocotools.mask')


def check_mim() -> Check:
    """openmim: the command that starts a training."""
    return check_package('openmim', 'openmim', module='mim.cli')


def check_plugin_in_mmdet() -> Check:
    """The plugin, as mmdet sees it."""
    return check_plugin('mmdet')


def check_plugin_in_mmseg() -> Check:
    """The plugin, as mmseg sees it."""
    return check_plugin('mmseg')


def check_plugin(host: str) -> Check:
    """Look up a backbone of the plugin in the host's registry."""
    part, wanted = f'plugin in {host}', 'CrossFormer_S registered'
    # Where the repository lies around this file, that is the plugin to install.
    root = Path(__file__).parents[1]
    source = f'-e {shlex.quote(str(root))}' if (root / 'setup.py').exists() else ''
    mend = f'{PIP} install --no-deps {source or "crossformer-mm"}'
    error = importing('crossformer_mm')
    if error:
        return failure(part, error, wanted, mend)
    distribution = {'mmseg': 'mmsegmentation'}.get(host, host)
    error = importing(f'{host}.registry')
    if error:
        return failure(part, error, wanted, install(distribution))
    try:
        backbone = sys.modules[f'{host}.registry'].MODELS.get('CrossFormer_S')
    except Exception as error:  # the registry imports the host's models first
        return failure(part, error, wanted, install(distribution))
    if backbone is None:
        return Check(part, 'not registered', wanted, 'FAIL', mend)
    return Check(part, 'registered', wanted, 'ok')


# How a part is checked


def check_package(
    part: str, distribution: str, module: str | None = None, also: str = ''
) -> Check:
    """Compare a package with its pin and import it.

    Args:
        part: What the table calls it.
        distribution: Its name for pip and in the pin file.
        module: What to import, where that is not the name of the distribution.
        also: What else is wanted of it, in words.
    """
    mend = install(distribution)
    found = version_of(distribution)
    pin = pinned(distribution)
    wanted = f'{pin}{also}'
    error = importing(module or distribution)
    if error:
        return failure(part, error, wanted, mend, found)
    if found is None:
        return Check(part, 'no metadata', wanted, 'FAIL', mend)
    # '+cpu' names the build, not another version.
    if found.partition('+')[0] != pin:
        return Check(part, found, wanted, 'warn', mend)
    return Check(part, found, wanted, 'ok')


def importing(module: str) -> Exception | None:
    """Import a module in silence and return what it raised."""
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            importlib.import_module(module)
    except Exception as error:
        return error
    return None


def failure(
    part: str, error: Exception, wanted: str, mend: str, found: str | None = None
) -> Check:
    """Tell of a part that does not import; another missing package may be to blame."""
    told = (str(error).strip().splitlines() or [''])[0]
    if not isinstance(error, ModuleNotFoundError):
        told = f'{type(error).__name__}: {told}'
    elif pinned(missing := (error.name or '').partition('.')[0]):
        mend = install(missing)
    return Check(part, f'{found}, {told}' if found else told, wanted, 'FAIL', mend)


def has_driver() -> bool:
    """Ask whether there is a working NVIDIA driver."""
    try:
        return subprocess.run(['nvidia-smi'], capture_output=True).returncode == 0
    except OSError:
        return False


# What is wanted, and how it is had


def note(pattern: str) -> str:
    """Return what ``pattern`` captures in the pin file, or nothing."""
    found = re.search(pattern, PINS, re.MULTILINE)
    return found[1] if found else ''


def called(distribution: str) -> str:
    """Return what the stack calls a distribution of OpenMMLab."""
    return FORKS.get(distribution, distribution) if ONEDL else distribution


def pinned(distribution: str) -> str:
    """Return the version that the pin file gives a package, or nothing."""
    name = re.escape(called(distribution))
    return note(rf'^{name}==([^\s;]+)') if distribution else ''


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution."""
    try:
        return metadata.version(called(distribution))
    except metadata.PackageNotFoundError:
        return None


def mmcv_range(distribution: str) -> str:
    """Return the range of mmcv that a package declares, in words."""
    try:
        declared = metadata.requires(called(distribution)) or []
    except metadata.PackageNotFoundError:
        return ''
    ranges = [line.partition(';')[0] for line in declared if 'mmcv' in line]
    return f', takes {ranges[0].strip()}' if ranges else ''


def install(distribution: str) -> str:
    """Return the command that installs a package as pinned."""
    pin = f'{called(distribution)}=={pinned(distribution)}'
    if distribution == 'torch':
        if has_driver():
            # == would be content with the CPU build.
            return f'{PIP} install torch==={pinned("torch")}'
        return f'{PIP} install {pin}+cpu --extra-index-url {note(CPU_INDEX)}'
    if distribution == 'mmcv':
        # Compiled for the very torch that is there, so never taken from pip's cache.
        tools = ' '.join(f'{x}=={pinned(x)}' for x in ('setuptools', 'wheel', 'ninja'))
        return (
            f'{PIP} install {tools} && MMCV_WITH_OPS=1 {PIP} install -v --no-deps '
            f'--no-build-isolation --no-cache-dir --no-binary {called("mmcv")} '
            f'--force-reinstall {pin}'
        )
    # The pin file is complete, and some of its packages ask for others that break it.
    return f'{PIP} install --no-deps {pin}'


if __name__ == '__main__':
    sys.exit(main())
