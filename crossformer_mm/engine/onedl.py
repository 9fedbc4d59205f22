"""The OneDL forks of OpenMMLab: other distributions under the same import names."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE


def find_mmseg_by_its_module() -> None:
    """Let configs inherit from ``mmseg::`` if mmseg comes from a fork.

    MMEngine looks for a distribution called mmsegmentation. The fork of MMEngine also
    looks for modules, but still requires a distribution of that name.
    """
    try:
        version('mmsegmentation')
    except PackageNotFoundError:
        if find_spec('mmseg') is not None:
            MODULE2PACKAGE['mmseg'] = 'mmseg'
