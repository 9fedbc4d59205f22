"""Mutated files are loaded or refused completely, without a crash.

    CROSSFORMER_FUZZ=2000 python -m pytest tests/checkpoint/test_fuzz.py -s

Case i depends only on seed i.
"""

import io
import os
import time
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from crossformer_mm.checkpoint.convert import convert, write_checkpoint
from crossformer_mm.checkpoint.load import PretrainedBackbone
from crossformer_mm.checkpoint.reader import CheckpointError, read_checkpoint
from crossformer_mm.checkpoint.recognize import recognize
from tests.checkpoint import honest, kinds

CASES = int(os.environ.get('CROSSFORMER_FUZZ', 100))
UNTOUCHED = 123.0

# Mutations of the file


def flip(data, rng):
    """Change a few bytes, mostly at the ends, which hold the structure."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 10)):
        end = rng.choice([len(data), min(len(data), 4000)])
        place = rng.integers(end)
        data[place if rng.random() < 0.5 else -place - 1] ^= rng.integers(1, 256)
    return bytes(data)


def cut(data, rng):
    return data[: rng.integers(len(data))]


def insert(data, rng):
    place = rng.integers(len(data))
    return data[:place] + rng.bytes(rng.integers(1, 100)) + data[place:]


def flip_pickle(data, rng):
    """Change the pickle inside the zip archive; the checksum is correct."""
    if not data.startswith(b'PK'):
        return flip(data, rng)
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(buffer, 'w') as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name.endswith('data.pkl'):
                content = bytearray(content)
                for _ in range(rng.integers(1, 6)):
                    content[rng.integers(len(content))] = rng.integers(256)
            new.writestr(name, bytes(content))
    return buffer.getvalue()


# Mutations of the content


def rename(weights, name, rng):
    letters = list(name)
    letters[rng.integers(len(letters))] = rng.choice(list('abc.019'))
    weights[''.join(letters)] = weights.pop(name)


def delete(weights, name, rng):
    del weights[name]


def reshape(weights, name, rng):
    change = rng.choice(['cut', 'expand', 'flatten', 'transpose', 'empty'])
    tensor = weights[name]
    weights[name] = {
        'cut': lambda: tensor[:-1],
        'expand': lambda: tensor[None],
        'flatten': lambda: tensor.flatten()[:-1],
        'transpose': lambda: tensor.transpose(0, -1)[1:],
        'empty': lambda: tensor[:0],
    }[change]()


def cast(weights, name, rng):
    dtypes = ['float16', 'bfloat16', 'float64', 'int64', 'bool', 'complex64']
    weights[name] = weights[name].to(getattr(torch, rng.choice(dtypes)))


def spoil(weights, name, rng):
    tensor = weights[name].clone()
    tensor.view(-1)[rng.integers(tensor.numel())] = rng.choice([np.nan, np.inf])
    weights[name] = tensor


def replace(weights, name, rng):
    others = [None, 1, 'x', [], {}, b'', (1, 2), np.ones(3), {'a': torch.zeros(1)}]
    weights[name] = others[rng.integers(len(others))]


OF_FILES = (flip, cut, insert, flip_pickle)
OF_CONTENT = (rename, delete, reshape, cast, spoil, replace)


def mutated(seed, files):
    """Make the file of a case."""
    rng = np.random.default_rng(seed)
    mutation = rng.choice([*OF_FILES, *OF_CONTENT])
    name = rng.choice(list(files))
    if mutation in OF_FILES:
        return mutation, mutation(files[name], rng)
    weights = kinds.backbone_weights('tiny')
    for _ in range(rng.integers(1, 4)):
        mutation(weights, rng.choice(list(weights)), rng)
    buffer = io.BytesIO()
    torch.save({'model': weights}, buffer)
    return mutation, buffer.getvalue()


def mutated_pickle(rng):
    """Return a legitimate file with a few changed bytes in its pickle."""
    content = honest.CONTENTS[rng.choice(list(honest.CONTENTS))]()
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return flip_pickle(buffer.getvalue(), rng)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_mutated_pickles(tmp_path):
    """Check that each of five times as many files is read or refused quickly."""
    path = tmp_path / 'file'
    outcomes = Counter()
    for seed in range(5 * CASES):
        path.write_bytes(mutated_pickle(np.random.default_rng(seed)))
        start = time.process_time()
        try:
            read_checkpoint(str(path))
            outcomes['read'] += 1
        except CheckpointError as error:
            assert str(error).isprintable()
            outcomes['refused'] += 1
        except Exception as error:
            raise AssertionError(f'seed {seed}') from error
        assert time.process_time() - start < 5, seed
    print(f'\npickles of seeds 0 to {5 * CASES - 1}: {dict(outcomes)}')
    assert len(outcomes) == 2


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Return a valid file of each format, as bytes."""
    folder = tmp_path_factory.mktemp('files')
    found = {}
    for make in (kinds.classifier, kinds.before_torch_1_6, kinds.safetensors):
        with pytest.MonkeyPatch.context() as patch:
            kinds.publish_small_variants(patch)
            make(folder / make.__name__, 'tiny')
        found[make.__name__] = (folder / make.__name__).read_bytes()
    return found


@pytest.fixture
def backbone():
    return MODELS.build(dict(type='CrossFormer', arch='tiny'))


def load(path, backbone):
    """Load into a backbone; return whether its weights come from the file."""
    for parameter in backbone.parameters():
        parameter.data.fill_(UNTOUCHED)
    try:
        PretrainedBackbone(str(path))(backbone)
        loaded = True
    except CheckpointError:
        loaded = False
    touched = {bool((p != UNTOUCHED).all()) for p in backbone.parameters()}
    assert touched == {loaded}
    return loaded


def convert_file(path, backbone):
    """Convert a file; return whether there is a new one, which must load."""
    new = path.with_name('new.pth')
    try:
        network = recognize(read_checkpoint(str(path)))
        write_checkpoint(convert(network, network.kind, {}), new, publish=False)
    except CheckpointError:
        assert list(path.parent.iterdir()) == [path]
        return False
    assert load(new, backbone)
    new.unlink()
    return True


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_mutated_files(files, backbone, tmp_path):
    path = tmp_path / 'file'
    outcomes = Counter()
    for seed in range(CASES):
        mutation, data = mutated(seed, files)
        path.write_bytes(data)
        try:
            loaded = load(path, backbone)
            converted = convert_file(path, backbone)
        except Exception as error:
            raise AssertionError(f'seed {seed}, {mutation.__name__}') from error
        # A file that loads may not convert, if only its head is damaged.
        assert loaded or not converted
        outcomes[mutation.__name__, 'loaded' if loaded else 'refused'] += 1
    print(f'\nseeds 0 to {CASES - 1}')
    for (mutation, outcome), count in sorted(outcomes.items()):
        print(f'{mutation:<12}{outcome:<8}{count:>5}')
    refused = {mutation for mutation, outcome in outcomes if outcome == 'refused'}
    assert refused == {mutation.__name__ for mutation in (*OF_FILES, *OF_CONTENT)}
