"""Check a config and its data before a training.

``finding``   a line of the report
``datasets``  the data sets of a config, and small subsets of them
``coco``      annotation files of COCO's format
``maps``      label images of MMSegmentation
``classes``   consistency of classes and ignored labels
``schedule``  learning rate, warm-up, iterations
``network``   normalization, pretrained file, widths, strides
``first_step``  a training step, a prediction and its evaluation on real images
"""

from collections.abc import Callable, Iterator

from mmengine.config import Config

from .classes import check_classes, check_ignored
from .coco import check_annotations
from .datasets import check_files
from .finding import Finding
from .first_step import check_step
from .maps import check_label_maps
from .network import check_network
from .schedule import check_schedule

CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    check_files,
    check_classes,
    check_annotations,
    check_label_maps,
    check_ignored,
    check_schedule,
    check_network,
    check_step,
)

__all__ = ['CHECKS', 'Finding', *(check.__name__ for check in CHECKS)]
