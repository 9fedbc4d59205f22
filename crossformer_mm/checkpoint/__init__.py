"""Read, load and convert published checkpoints safely.

``errors``     the exceptions, and formatting of names in messages
``names``      classes and functions that a pickle may use, and their substitutes
``unpickle``   an unpickler that executes nothing
``reader``     reads a file of torch.save or safetensors, or raises one clear error
``weights``    shapes, differences and precision of state dicts
``recognize``  the published networks; identifies the network in a file
``load``       loads weights into networks, for ``init_cfg`` and for MMEngine
``convert``    converts weights for another program and writes the new file
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
