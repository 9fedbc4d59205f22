"""Read published checkpoints safely, load them whole, convert them.

``errors``     the one error, and names in messages
``names``      the names that a pickle may use, and what stands in for each
``unpickle``   a pickle, read as data
``reader``     a file of torch.save or safetensors: its content, or one clear error
``weights``    weights by name: shapes, differences, precision
``recognize``  the published networks, and which of them a file holds
``load``       weights into networks, by ``init_cfg`` and by MMEngine
``convert``    weights for another program, and the new file
"""

from .errors import CheckpointError
from .load import PretrainedBackbone, allow_mmengine_checkpoints, check_loaded
from .reader import read_checkpoint

__all__ = [
    'CheckpointError',
    'PretrainedBackbone',
    'allow_mmengine_checkpoints',
    'check_loaded',
    'read_checkpoint',
]
