"""Legitimate checkpoint files of all kinds, as trainings save them.

    python -m tests.checkpoint.honest FOLDER

writes them with the installed torch and NumPy. ``tests/data/honest`` has files of other
versions.
"""

import sys
from collections import Counter, OrderedDict
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import ExponentialMovingAverage
from torch import nn
from yacs.config import CfgNode


def numbers(*shape):
    """Return a tensor of deterministic values."""
    return torch.arange(float(np.prod(shape, dtype=int))).reshape(shape) / 7


def model():
    """Return a small model with a buffer."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2))
    for parameter in network.parameters():
        parameter.data.copy_(numbers(*parameter.shape))
    return network


def trained(optimizer, **options):
    """Return an optimizer after one step."""
    network = model()
    optimizer = optimizer(network.parameters(), lr=0.1, **options)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def state_of(optimizer):
    """Return an optimizer's state without options that differ between versions."""
    state = optimizer.state_dict()
    groups = state['param_groups']
    kept = [{name: group[name] for name in ('lr', 'params')} for group in groups]
    return {'state': state['state'], 'param_groups': kept}


def scheduler():
    """Return the state of a scheduler, which contains a Counter."""
    made = torch.optim.lr_scheduler.MultiStepLR(trained(torch.optim.SGD), [3, 5, 5])
    keep = ('milestones', 'gamma', 'base_lrs', 'last_epoch')
    return {name: made.state_dict()[name] for name in keep}


def with_attributes(tensor):
    """Set an attribute on a tensor."""
    tensor.lr_mult = 0.1
    return tensor


def config():
    """Return a config as the original code saves it with the weights."""
    made = CfgNode({'MODEL': {'TYPE': 'cross-scale', 'HEADS': [2, 4]}})
    made.freeze()
    return made


def tied():
    """Return a state dict with shared weights and views."""
    weight = numbers(4, 4)
    return {'encoder': weight, 'decoder': weight, 'row': weight[1], 't': weight.t()}


CONTENTS = {
    'weights': lambda: model().state_dict(),
    'weights_in_model': lambda: {'model': model().state_dict(), 'epoch': 3},
    'adamw': lambda: {'optimizer': state_of(trained(torch.optim.AdamW))},
    'sgd_momentum': lambda: {
        'optimizer': state_of(trained(torch.optim.SGD, momentum=0.9))
    },
    'amsgrad': lambda: state_of(trained(torch.optim.Adam, amsgrad=True)),
    'scheduler': scheduler,
    'average': lambda: ExponentialMovingAverage(model()).state_dict(),
    'loss_scaler': lambda: {
        'loss_scaler': {'scale': 65536.0, 'growth_factor': 2.0, '_growth_tracker': 0}
    },
    'log': lambda: {
        'message_hub': {
            'log_scalars': OrderedDict(
                loss=HistoryBuffer([3.0, 1.0], [1, 1]), lr=HistoryBuffer([1e-3], [1])
            ),
            'runtime_info': OrderedDict(iter=3, loop_stage='train', loss=np.float64(1)),
            'resumed_keys': {'loss': True},
        }
    },
    'empty_log': lambda: {'log': HistoryBuffer()},
    'long_log': lambda: {'log': HistoryBuffer([0.5] * 10_000, [1] * 10_000)},
    'numpy_numbers': lambda: [
        np.dtype(code).type(1) for code in ('?', 'b', 'u1', 'i8', 'f2', 'f4', 'f8', 'F')
    ],
    'numpy_arrays': lambda: [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6).reshape(2, 3)[:, ::2],
        np.array(1.5),
        np.empty((0, 4), 'f4'),
        np.array([True, False]),
        np.arange(3, dtype='>f8'),
        np.array([1 + 2j]),
        np.array(['dog', 'ä cat']),
        np.array([b'dog']),
    ],
    'classes_are_arrays': lambda: {
        'meta': {
            'CLASSES': np.array(['wall', 'sky']),
            'PALETTE': np.array([[120, 120, 120], [6, 230, 230]], dtype=np.uint8),
        },
        'state_dict': model().state_dict(),
    },
    'dataset_meta_of_tensors': lambda: {
        'meta': {
            'dataset_meta': {
                'classes': ('wall', 'sky'),
                'palette': torch.tensor([[120, 120, 120], [6, 230, 230]]),
            }
        }
    },
    'half': lambda: {name: t.half() for name, t in model().state_dict().items()},
    'bfloat16': lambda: {'a': numbers(3).bfloat16()},
    'all_types': lambda: {
        name: torch.ones(2, 2, dtype=getattr(torch, name))
        for name in (
            *('float64', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool'),
            *('complex64', 'complex128'),
        )
    },
    'parameters': lambda: {
        'learned': nn.Parameter(numbers(3)),
        'frozen': nn.Parameter(numbers(3), requires_grad=False),
        'leaf': numbers(3).requires_grad_(),
    },
    'attributes': lambda: {
        'tensor': with_attributes(numbers(3)),
        'parameter': with_attributes(nn.Parameter(numbers(3))),
    },
    'views': lambda: {
        'slice': numbers(10)[3:7:2],
        'transposed': numbers(3, 4).t(),
        'channels_last': numbers(1, 2, 3, 4).contiguous(
            memory_format=torch.channels_last
        ),
        'empty_at_the_end': numbers(10)[10:],
        'expanded': torch.ones(1).expand(1000, 1000),
    },
    'tied': tied,
    'no_dimension': lambda: {'steps': torch.tensor(80_000), 'none': torch.empty(0, 3)},
    'plain_data': lambda: {
        'numbers': [0, -1, 255, 2**16, 2**31, -(2**40), 2**100, 0.5, 1e300],
        'text': ['', 'ä', '文件', 'x' * 1000, 'line\nline'],
        'nested': [[], {}, (), ((), [({},)]), None, True, False],
        'bytes': [b'', b'abc', bytes(range(256)), bytearray(b'abc')],
        'sets': [set(), {1, 2}, {'a'}],
        'keys': {1: 'a', 0.5: 'b', None: 'c', False: 'd', (0, 'x'): 'e', b'y': 'f'},
        'others': [1 + 2j, torch.Size([2, 3]), torch.float16, torch.device('cpu')],
        'counter': Counter('abca'),
        'slice': slice(1, None, 2),
        'when': [datetime(2026, 1, 2, 3), timedelta(1, 2), datetime(2026, 1, 1).date()],
        'in_utc': datetime(2026, 1, 2, tzinfo=timezone.utc),
        'where': PurePosixPath('work_dirs/a'),
    },
    'shared_list': lambda: [[1, 2]] * 3,
    'unicode_names': lambda: {'权重.bias': numbers(2), 'größe': 3},
    'published': lambda: {'model': model().state_dict(), 'config': config()},
    'mmcv_1': lambda: {
        'meta': {
            'config': 'model = dict(\n    type="MaskRCNN")\n' * 100,
            'CLASSES': ('person', 'bicycle'),
            'PALETTE': [[1, 2, 3], [4, 5, 6]],
            'seed': None,
            'hook_msgs': {},
        },
        'state_dict': model().state_dict(),
    },
}
# Non-default options of torch.save.
WAYS = {
    'before_torch_1_6': dict(_use_new_zipfile_serialization=False),
    'protocol_3': dict(pickle_protocol=3),
    'protocol_4': dict(pickle_protocol=4),
}


def from_a_gpu(content, path):
    """Save with tensors marked as on a GPU."""
    tag = torch.serialization.location_tag
    torch.serialization.location_tag = lambda storage: 'cuda:3'
    try:
        torch.save(content, path)
    finally:
        torch.serialization.location_tag = tag


def write_all(folder):
    """Write each content, and some with other options."""
    for name, make in CONTENTS.items():
        torch.save(make(), folder / f'{name}.pth')
    for way, options in WAYS.items():
        for name in ('weights', 'adamw', 'log', 'numpy_arrays', 'plain_data'):
            torch.save(CONTENTS[name](), folder / f'{name}.{way}.pth', **options)
    from_a_gpu(CONTENTS['weights'](), folder / 'weights.gpu.pth')


if __name__ == '__main__':
    write_all(Path(sys.argv[1]))
