"""Read published checkpoints safely, load them whole, convert them.

``text``          what a stranger wrote, shown
``allowed``       the names a checkpoint may have, and what each does here
``unpickle``      a pickle, read as data
``torch_file``    the two formats of torch.save
``reader``        a file, or one clear error
``mmengine_loader``  MMEngine's loading, by this reader
``recognize``     the network that its names and shapes belong to
``fit``           whether the weights are all there, and usable
``pretrained``    ``init_cfg=dict(type='Pretrained', ...)`` of the backbones
``convert``       the content of another file
``writer``        that file, whole or not at all
``report``        what a person wants to know of all this
"""

from .mmengine_loader import allow_mmengine_checkpoints
from .pretrained import PretrainedBackbone
from .reader import CheckpointError

__all__ = ['CheckpointError', 'PretrainedBackbone', 'allow_mmengine_checkpoints']
