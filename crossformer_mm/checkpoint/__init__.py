"""Read published checkpoints safely, load them whole, convert them.

``allowed``       the classes a checkpoint may hold beside tensors
``weights_only``  torch.load with these classes and no others, on any torch
``reader``        a file, or one clear error
``recognize``     the network that its names and shapes belong to
``fit``           whether the weights are all there, and usable
``pretrained``    ``init_cfg=dict(type='Pretrained', ...)`` of the backbones
``convert``       the content of another file
``writer``        that file, whole or not at all
``report``        what a person wants to know of all this
"""

from .mmengine_loader import allow_mmengine_checkpoints
from .reader import CheckpointError

__all__ = ['CheckpointError', 'allow_mmengine_checkpoints']
