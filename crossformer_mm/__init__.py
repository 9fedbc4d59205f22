"""CrossFormer and CrossFormer++ backbones for OpenMMLab.

Importing the package registers the backbones in MMEngine's root registry, so that
MMDetection, MMSegmentation and MMPretrain find them::

    custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
"""

from .models import *  # noqa: F403
from .models import __all__
from .version import __version__  # noqa: F401
