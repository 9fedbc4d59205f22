"""CrossFormer and CrossFormer++ backbones for OpenMMLab.

Importing the package registers the backbones in MMEngine's root registry, so that
MMDetection, MMSegmentation and MMPretrain find them::

    custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)

It also makes MMEngine read checkpoints safely, and lets configs inherit from
``mmseg::`` with the OneDL forks.
"""

from .checkpoint import allow_mmengine_checkpoints
from .engine import (
    CheckedRunner,
    EpochSeedHook,
    LayerDecayOptimWrapperConstructor,
)
from .engine.onedl import find_mmseg_by_its_module
from .models import *  # noqa: F403
from .models import __all__ as _models
from .version import __version__

__all__ = [
    'CheckedRunner',
    'EpochSeedHook',
    'LayerDecayOptimWrapperConstructor',
    '__version__',
    *_models,
]

allow_mmengine_checkpoints()
find_mmseg_by_its_module()
