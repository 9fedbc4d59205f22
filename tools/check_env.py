"""Check what in this environment would break a training, and how to repair it.

    python tools/check_env.py

Prints one line per part: verdict, what is found, what is wanted and the command that
repairs it. 'warn': not tried, but training should work. The exit code is 1 if any line
is FAIL. Needs only Python itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import platform
import shlex
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]  # of the repository, or the wheel's .mim
sys.path.insert(0, str(ROOT / 'requirements'))
from pins import Pins, compute_capability, installed, installed_stack  # noqa: E402

PINS = Pins(installed_stack())
Test = Callable[[], object]  # raises an error unless a part works
PIP = f'{shlex.quote(sys.executable)} -m pip'


class Check(NamedTuple):
    """What was found out about one part."""

    part: str
    found: str
    wanted: str
    verdict: str = 'ok'
    remedy: str = ''


def main() -> int:
    """Run all checks and return the exit code."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    warnings.simplefilter('ignore')
    print_line(Check('part', 'found', 'wanted', 'verdict', 'repair with'))
    ops = {'torch': install('torch'), 'mmcv._ext': install('mmcv')}
    failed = False
    # Printed one by one: should a broken extension bring Python down, the last line
    # shows how far it came.
    for check in (
        check_python,
        # mmengine and openmim import its pkg_resources, gone in 82.
        partial(check_package, 'setuptools', 'pkg_resources'),
        partial(check_package, 'numpy', 'numpy', exchange_an_array),
        check_opencv,
        check_torch,
        check_cuda,
        partial(check_package, 'mmengine', 'mmengine'),
        partial(check_package, 'mmcv', 'mmcv'),
        partial(examine, 'mmcv._ext', ops, 'loads', 'compiled for this torch'),
        partial(check_package, 'mmdet', 'mmdet'),
        partial(check_package, 'mmsegmentation', 'mmseg'),
        check_mmseg_namesake,
        partial(check_package, 'pycocotools', 'pycocotools.mask'),
        partial(check_package, 'openmim', 'mim.cli'),
        partial(check_plugin, 'mmdet', 'mmdet'),
        partial(check_plugin, 'mmseg', 'mmsegmentation'),
    ):
        print_line(result := check())
        failed |= result.verdict == 'FAIL'
    return int(failed)


def print_line(check: Check) -> None:
    """Print one line of the table."""
    remedy = f'  -> {check.remedy}' if check.remedy else ''
    line = f'{check.verdict:<7}  {check.part:<15}  {check.found:<24}  {check.wanted}'
    print(line + remedy, flush=True)


def check_python() -> Check:
    """Python: the version and whether the stack was tried on it."""
    version, tried = platform.python_version(), PINS.pythons
    check = Check('Python', version, ', '.join(tried))
    warn = dict(verdict='warn', remedy=f'make env PYTHON=python{tried[0]}')
    return check if version.rpartition('.')[0] in tried else check._replace(**warn)


def check_package(package: str, module: str, test: Test = bool) -> Check:
    """Import and test a package and compare its version with the pin."""
    found, pin = installed(PINS.called(package)), PINS.version(package)
    remedy, wanted = install(package), pin + mmcv_range(package)
    check = examine(package, {module: remedy}, found or 'no metadata', wanted, test)
    # '+cpu' names the build, not another version.
    if check.verdict == 'ok' and found.partition('+')[0] != pin:
        return check._replace(verdict='warn' if found else 'FAIL', remedy=remedy)
    return check


def exchange_an_array() -> None:
    """Give torch an array of numpy, where there is a torch."""
    with contextlib.suppress(ImportError):
        torch = importlib.import_module('torch')
        torch.from_numpy(sys.modules['numpy'].zeros(1))


def check_opencv() -> Check:
    """OpenCV: either of its distributions, if it loads."""
    # opencv-python, which mmengine asks for, needs libGL and owns the same files.
    remedy = f'{PIP} uninstall -y opencv-python && '
    remedy += f'{install("opencv-python-headless")} --force-reinstall'
    found = installed('opencv-python-headless') or installed('opencv-python')
    return examine('OpenCV', {'cv2': remedy}, found, 'any that loads')


def check_torch() -> Check:
    """torch: the version; any build of it."""
    check = check_package('torch', 'torch')
    if check.verdict != 'warn':
        return check
    if [int(number) for number in check.found.split('.')[:2]] < [2, 10]:
        # Our own reader of checkpoints has no part in it.
        unsafe = '; before 2.10 torch.load is open to CVE-2026-24747'
        return check._replace(wanted=check.wanted + unsafe)
    return check


def check_cuda() -> Check:
    """CUDA: with an NVIDIA driver torch should be able to use it."""
    driver = compute_capability()
    wanted = 'usable' if driver else 'no need, no driver'
    check = examine('CUDA', {'torch': install('torch')}, 'CPU build of torch', wanted)
    if check.verdict == 'FAIL':
        return check
    if build := (torch := sys.modules['torch']).version.cuda:
        usable = 'usable' if torch.cuda.is_available() else 'not usable'
        check = check._replace(found=f'{build}, {usable}')
    if not driver or check.found.endswith(', usable'):
        return check
    remedy = f'update the NVIDIA driver for CUDA {build}' if build else install('torch')
    # A training runs on the CPU as well, only slowly.
    return check._replace(verdict='warn', remedy=remedy)


def check_mmseg_namesake() -> Check:
    """mmseg: a word segmenter that overwrites files of mmsegmentation."""
    if not installed('mmseg'):
        return Check('mmseg', 'not there', 'not there')
    remedy = (
        f'{PIP} uninstall -y mmseg && {install("mmsegmentation")} --force-reinstall'
    )
    return Check('mmseg', 'a word segmenter', 'not there', 'FAIL', remedy)


def check_plugin(host: str, package: str) -> Check:
    """Look up a backbone of the plugin in the registry of mmdet or mmseg."""
    # In a checkout, install the plugin from there.
    checkout = (ROOT / 'setup.py').exists()
    source = f'-e {shlex.quote(str(ROOT))}' if checkout else 'crossformer-mm'
    plugin = f'{PIP} install --no-deps {source}'
    modules = {f'{host}.registry': install(package), 'crossformer_mm': plugin}

    def look_up() -> None:
        if sys.modules[f'{host}.registry'].MODELS.get('CrossFormer_S') is None:
            raise LookupError('not registered')

    return examine(f'plugin in {host}', modules, 'there', 'CrossFormer_S', look_up)


def examine(
    part: str, modules: dict[str, str], found: str, wanted: str, test: Test = bool
) -> Check:
    """Import modules, given with the commands that repair them, and test them."""
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            for module in modules:
                importlib.import_module(module)
            test()
    except Exception as error:
        found = f'{type(error).__name__}: {(str(error).strip() or "-").splitlines()[0]}'
        # Another package that is missing may be to blame.
        missing = (getattr(error, 'name', '') or '-').partition('.')[0]
        remedy = install(missing) if PINS.version(missing) else modules[module]
        return Check(part, found, wanted, 'FAIL', remedy)
    return Check(part, found, wanted)


def mmcv_range(package: str) -> str:
    """Return the range of mmcv that a package declares, in words."""
    for distribution in metadata.distributions(name=PINS.called(package)):
        ranges = [line for line in distribution.requires or () if 'mmcv' in line]
        return f', takes {ranges[0].partition(";")[0]}' if ranges else ''
    return ''


def install(package: str) -> str:
    """Return the command that installs a package as pinned."""
    if package == 'torch':
        return f'{PIP} install {" ".join(PINS.torch(compute_capability()))}'
    if package == 'mmcv':
        tools = ' '.join(PINS.pin(tool) for tool in ('setuptools', 'wheel', 'ninja'))
        script = shlex.quote(str(ROOT / 'requirements' / 'compile_mmcv.py'))
        return f'{PIP} install {tools} && {shlex.quote(sys.executable)} {script}'
    # The pins are complete, and some of the packages ask for others that break them.
    return f'{PIP} install --no-deps {PINS.pin(package)}'


if __name__ == '__main__':
    sys.exit(main())
