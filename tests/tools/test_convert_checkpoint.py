"""tools/convert_checkpoint.py on files in the published formats."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from crossformer_mm.checkpoint.convert import RECORD, sha256
from tests import published
from tests.checkpoint import kinds
from tests.helpers import MIM, ROOT, mim_name

MASK_RCNN = ROOT / 'configs' / 'mask_rcnn_crossformer_s_fpn_1x_coco.py'


@pytest.fixture
def small_variants(monkeypatch):
    kinds.publish_small_variants(monkeypatch)


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run the tool in this process; return its exit code, stdout and stderr."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import convert_checkpoint

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['convert_checkpoint', *map(str, arguments)])
        code = 0
        try:
            convert_checkpoint.main()
        except SystemExit as stopped:
            code = stopped.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_report(small_variants, convert, tmp_path):
    source, target = tmp_path / 'a.pth', tmp_path / 'b.pth'
    kinds.first_release(source, 'tiny')
    code, out, _ = convert(source, target, '--to', 'backbone')
    assert code == 0
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    weights = kinds.backbone_weights('tiny')
    values = sum(tensor.numel() for tensor in weights.values()) / 1e6
    assert ['file', f'{source}, {source.stat().st_size:,} bytes'] in lines
    assert ['SHA-256', sha256(source)] in lines
    assert ['kind', 'classifier'] in lines
    assert ['variant', 'CrossFormer-tiny'] in lines
    used = f'{len(weights)} tensors, {values:.1f} M values for the backbone'
    assert ['used', used] in lines
    dropped = [text for label, text in lines if label == 'dropped']
    for part in ('attn.biases', 'attn.relative_position_index', 'attn_mask'):
        assert any(part in text and 'buffer, ' in text for text in dropped)
    assert any('optimizer' in text and 'no weights' in text for text in dropped)
    assert any('head.weight' in text and 'not part of' in text for text in dropped)
    for label in ('missing', 'unknown', 'mismatched'):
        assert [label, 'none'] in lines
    assert ['written', f'{target}, {target.stat().st_size:,} bytes'] in lines
    assert ['SHA-256', sha256(target)] in lines


def test_report_of_half_precision(small_variants, convert, tmp_path):
    weights = kinds.classifier_weights('tiny')
    halves = {name: tensor.half() for name, tensor in weights.items()}
    torch.save(halves, tmp_path / 'a.pth')
    code, lines, _ = convert(tmp_path / 'a.pth', tmp_path / 'b.pth')
    assert code == 0
    assert f'{len(weights)} of them float16' in str(lines)


def test_record(small_variants, convert, tmp_path):
    kinds.classifier(tmp_path / 'a.pth', 'tiny')
    convert(tmp_path / 'a.pth', tmp_path / 'b.pth')
    record = torch.load(tmp_path / 'b.pth', weights_only=True)['meta'][RECORD]
    assert record['source'] == 'a.pth'
    assert record['source_sha256'] == sha256(tmp_path / 'a.pth')
    assert record['conversion'] == 'classifier to classifier'


def test_record_of_safetensors(small_variants, convert, tmp_path):
    from safetensors import safe_open

    kinds.classifier(tmp_path / 'a.pth', 'tiny')
    convert(tmp_path / 'a.pth', tmp_path / 'b.safetensors', '--to', 'backbone')
    with safe_open(tmp_path / 'b.safetensors', 'pt') as file:
        assert file.metadata()['variant'] == 'tiny'
        assert file.metadata()['source_sha256'] == sha256(tmp_path / 'a.pth')


def test_inspect_writes_nothing(small_variants, convert, tmp_path):
    source = tmp_path / 'a.pth'
    kinds.detector(source, 'tiny')
    code, out, _ = convert(source, '--inspect')
    assert code == 0
    assert 'detector' in out
    assert 'written' not in out
    assert list(tmp_path.iterdir()) == [source]


def test_publish(small_variants, convert, tmp_path):
    kinds.classifier(tmp_path / 'a.pth', 'tiny')
    convert(tmp_path / 'a.pth', tmp_path / 'b.pth', '--publish')
    (new,) = tmp_path.glob('b*')
    assert new.name == f'b-{sha256(new)[:8]}.pth'


def other_classes(path):
    weights = kinds.classifier_weights('tiny')
    weights['head.weight'] = torch.zeros(10, 128)
    torch.save({'model': weights}, path)


def incomplete(path):
    weights = kinds.classifier_weights('tiny')
    del weights['norm.bias']
    torch.save({'model': weights}, path)


def empty(path):
    path.touch()


def tiny_classifier(path):
    kinds.classifier(path, 'tiny')


@pytest.mark.parametrize(
    ('make', 'options', 'error'),
    [
        (empty, [], 'a.pth is empty: get it again.'),
        (other_classes, [], 'head.weight [10, 128], not [1000, 128]'),
        (other_classes, ['--inspect'], 'head.weight [10, 128], not [1000, 128]'),
        (incomplete, [], '1 missing (norm.bias)'),
        (tiny_classifier, ['--to', 'segmentor'], 'no segmentor can be made of it'),
    ],
)
def test_error_writes_no_file(make, options, error, small_variants, convert, tmp_path):
    source = tmp_path / 'a.pth'
    make(source)
    target = [] if '--inspect' in options else [tmp_path / 'b.pth']
    code, _, _ = convert(source, *target, *options)
    assert code.startswith(f'convert_checkpoint: {source} ')
    assert error in code
    assert '\n' not in code
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ('target', 'error'),
    [
        ('a.pth', 'is there already'),
        ('b.bin', 'must end in'),
        ('no/b.pth', 'there is no folder'),
        ('b.safetensors', 'take .pth, or only the backbone by --to backbone'),
    ],
)
def test_invalid_targets(target, error, small_variants, convert, tmp_path):
    source = tmp_path / 'a.pth'
    kinds.classifier(source, 'tiny')
    before = source.read_bytes()
    code, _, _ = convert(source, tmp_path / target)
    assert error in code
    assert list(tmp_path.iterdir()) == [source]
    assert source.read_bytes() == before


def test_usage(convert):
    for arguments in (['a.pth'], ['a.pth', 'b.pth', '--inspect']):
        code, _, err = convert(*arguments)
        assert code == 2
        assert 'give either DST or --inspect' in err


# Complete detectors and segmentors


def small_segmentor(name):
    """Return the model of an MMSegmentation config with a CrossFormer backbone."""
    mmseg = pytest.importorskip('mmseg')
    bases = Path(mmseg.__file__).parent / '.mim' / 'configs' / '_base_' / 'models'
    model = Config.fromfile(bases / f'{name}.py').model
    model.pretrained = None
    model.backbone = dict(type='CrossFormer_T')
    if name == 'fpn_r50':
        model.neck.in_channels = [64, 128, 256, 512]
    else:
        model.decode_head.in_channels = [64, 128, 256, 512]
        model.auxiliary_head.in_channels = 256
    return model


def mask_rcnn():
    """Return the model of the Mask R-CNN config."""
    pytest.importorskip('mmdet')
    return Config.fromfile(MASK_RCNN).model


def save_as_mmcv_1(model, path):
    """Save as MMCV 1.x does; it uses the same names for these models."""
    weights = {f'module.{name}': item for name, item in model.state_dict().items()}
    weights['module.backbone.layers.0.blocks.0.attn.biases'] = torch.zeros(169, 2)
    torch.save({'meta': kinds.MMCV_META, 'state_dict': weights}, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('scope', 'make', 'argument'),
    [
        ('mmdet', mask_rcnn, ()),
        ('mmseg', small_segmentor, ('fpn_r50',)),
        ('mmseg', small_segmentor, ('upernet_swin',)),
    ],
)
def test_every_key_matches(scope, make, argument, convert, tmp_path):
    model = make(*argument)
    init_default_scope(scope)
    model = MODELS.build(model)
    save_as_mmcv_1(model, tmp_path / 'old.pth')
    assert convert(tmp_path / 'old.pth', tmp_path / 'new.pth')[0] == 0
    new = torch.load(tmp_path / 'new.pth', weights_only=True)
    expected = model.state_dict()
    assert new['state_dict'].keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(new['state_dict'][name], tensor), name
    model.load_state_dict(new['state_dict'], strict=True)
    assert new['meta']['dataset_meta']['classes'] == kinds.MMCV_META['CLASSES']


@pytest.mark.slow
def test_mim_test_on_a_converted_detector(convert, tmp_path):
    init_default_scope('mmdet')
    save_as_mmcv_1(MODELS.build(mask_rcnn()), tmp_path / 'old.pth')
    assert convert(tmp_path / 'old.pth', tmp_path / 'new.pth')[0] == 0
    data = tmp_path / 'coco'
    command = [sys.executable, ROOT / 'tools' / 'make_mini_coco.py', data]
    command += ['--train', '1', '--val', '2', '--size', '64']
    subprocess.run(command, check=True, capture_output=True)
    command = [
        MIM,
        'test',
        mim_name('mmdet'),
        MASK_RCNN,
        '--checkpoint',
        tmp_path / 'new.pth',
    ]
    command += ['--work-dir', tmp_path / 'work', '--cfg-options']
    command += ['test_dataloader.dataset.pipeline.1.scale=(128,128)']
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'COCO_ROOT': str(data)},
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert f'Load checkpoint from {tmp_path}/new.pth' in output
    assert 'do not match' not in output
    assert 'Epoch(test) [2/2]' in output


def test_mim_runs_the_tool(tmp_path):
    source = tmp_path / 't.pth'
    torch.save({'model': kinds.classifier_weights('T')}, source)
    command = [MIM, 'run', 'crossformer_mm', 'convert_checkpoint', source, '--inspect']
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'CrossFormer-T' in result.stdout


# VmHWM is the peak of this program; ru_maxrss would start at that of pytest.
MEASURED = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as Python does for a script
runpy.run_path(sys.argv[0], run_name='__main__')
print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize('with_optimizer', [False, True])
def test_memory(with_optimizer, tmp_path):
    """Check that converting L (92 M parameters) takes less than 2.5 times the file."""
    source = tmp_path / 'l.pth'
    weights = {
        name: torch.rand(shape)
        for name, shape in published.CLASSIFIER_SHAPES['L'].items()
    }
    content = {'model': weights, **kinds.original_entries()}
    if with_optimizer:
        content['optimizer']['state'] = {
            i: {'exp_avg': tensor + 1, 'exp_avg_sq': tensor + 2}
            for i, tensor in enumerate(weights.values())
        }
    torch.save(content, source)
    tool = ROOT / 'tools' / 'convert_checkpoint.py'
    command = [sys.executable, '-c', MEASURED, tool, source, tmp_path / 'new.pth']
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    peak = int(result.stdout.split()[-1]) * 1024
    ratio = peak / source.stat().st_size
    print(f'\npeak {peak / 1e6:.0f} MB, {ratio:.2f} times the file')
    assert ratio < 2.5
