"""Reference outputs of the published networks, and the weights behind them."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / 'data'
CASES = json.loads((DATA / 'outputs.json').read_text())
BACKBONE_CASES = [case for case in CASES if case['kind'] != 'cls']
CLASSIFIER_SHAPES = json.loads((DATA / 'classifier_keys.json').read_text())


def case_id(case):
    """Name a case in pytest's output."""
    size = 'x'.join(map(str, case['input']))
    groups = ','.join(map(str, case['group_size']))
    return f'{case["kind"]}-{case["arch"]}-{size}-G{groups}'


def weight(name, shape):
    """Generate the weight of the reference outputs from a parameter's name."""
    seed = zlib.crc32(name.encode())
    z = np.random.RandomState(seed).standard_normal(shape).astype('float32')
    if len(shape) > 1:
        z = z / np.sqrt(np.prod(shape[1:], dtype='float32'))
    elif name.endswith('weight'):
        z = 1 + 0.1 * z
    else:
        z = 0.05 * z
    return torch.from_numpy(z.astype('float32'))


def load_weights(model):
    """Load the weights of the reference outputs into a backbone."""
    model.load_state_dict(
        {name: weight(name, tuple(p.shape)) for name, p in model.state_dict().items()}
    )
    return model


def images(case):
    """Make the input of a case."""
    z = np.random.RandomState(case['input_seed']).standard_normal(case['input'])
    return torch.from_numpy(z.astype('float32'))


def error(output, expected):
    """Return the largest error at the sampled positions, relative to the std."""
    assert list(output.shape) == expected['shape']
    values = output.contiguous().flatten()[expected['index']]
    deviation = (values - torch.tensor(expected['value'])).abs().max()
    return deviation.item() / expected['std']
