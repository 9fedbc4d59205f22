"""Classifiers in MMPretrain; needs the environment of make env-cls."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from tests import published
from tests.helpers import ROOT

FOLDER = ROOT / 'configs'
CONVERT = ROOT / 'tools' / 'convert_checkpoint.py'
MINI = FOLDER / 'crossformer_t_mini_digits.py'
CASES = {case['arch']: case for case in published.CASES if case['kind'] == 'cls'}
INDEX = {
    model['Name']: model
    for model in yaml.safe_load((FOLDER / 'imagenet.yml').read_text())['Models']
}


def config_of(arch):
    plus = 'pp' if arch.startswith('pp') else ''
    return FOLDER / f'crossformer{plus}_{arch[-1].lower()}_300e_in1k.py'


def build(config):
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model).eval()


@pytest.mark.parametrize('arch', CASES)
def test_converted_classifier_gives_the_published_logits(arch, tmp_path):
    weights = {
        name: published.weight(name, tuple(shape))
        for name, shape in published.CLASSIFIER_SHAPES[arch].items()
    }
    torch.save({'model': weights}, tmp_path / 'published.pth')
    files = tmp_path / 'published.pth', tmp_path / 'converted.pth'
    subprocess.run([sys.executable, CONVERT, *files], check=True)
    model = build(config_of(arch))
    load_checkpoint(model, str(tmp_path / 'converted.pth'), 'cpu', strict=True)
    with torch.no_grad():
        logits = model(published.images(CASES[arch]), mode='tensor')
    assert published.error(logits, CASES[arch]['outputs'][0]) < 1e-4


@pytest.mark.parametrize('arch', CASES)
def test_published_recipe(arch):
    cfg = Config.fromfile(config_of(arch))
    plain = published.CLASSIFIER_SHAPES[arch]
    assert cfg.model.head.in_channels == plain['head.weight'][1]
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3)
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.clip_grad.max_norm == 5.0
    assert cfg.train_cfg.max_epochs == 300
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, warm_up.by_epoch) == (20, True)
    assert cosine.type == 'CosineAnnealingLR'
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    transforms = {transform.type for transform in cfg.train_pipeline}
    assert {'RandomResizedCrop', 'RandAugment', 'RandomErasing'} <= transforms
    assert [a.type for a in cfg.model.train_cfg.augments] == ['Mixup', 'CutMix']
    with torch.device('meta'):
        model = build(config_of(arch))
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    expected = INDEX[config_of(arch).stem]['Metadata']['Parameters (M)']
    assert parameters == pytest.approx(expected, abs=0.1)
    rates = [
        b.drop_path.drop_prob for layer in model.backbone.layers for b in layer.blocks
    ]
    last = dict(T=0.1, S=0.2, B=0.3, L=0.5, ppS=0.2, ppB=0.3, ppL=0.5, ppH=0.5)[arch]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(last)


def test_original_folder_layout(tmp_path):
    image = np.zeros((40, 40, 3), np.uint8)
    for name, folder in (('n01', 'train/n01'), ('n02', 'train/n02/images')):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / f'{name}_1.JPEG'), image)
    cfg = Config.fromfile(config_of('S'))
    init_default_scope(cfg.default_scope)
    dataset = dict(cfg.train_dataloader.dataset, data_root=str(tmp_path))
    dataset['metainfo'] = dict(classes=['first', 'second'])
    found = DATASETS.build(dataset)
    paths = {
        found.get_data_info(i)['img_path']: found[i]['data_samples'].gt_label.item()
        for i in range(len(found))
    }
    assert paths == {
        str(tmp_path / 'train/n01/n01_1.JPEG'): 0,
        str(tmp_path / 'train/n02/images/n02_1.JPEG'): 1,
    }


def test_missing_data_error(mim):
    run = mim('train', 'mmpretrain', config_of('S'), imagenet_root='/nowhere')
    assert run.returncode != 0
    assert 'Data not found: /nowhere/train' in run.stdout
    assert 'IMAGENET_ROOT' in run.stdout


@pytest.mark.slow
def test_mini_classifier_learns(mim, tmp_path):
    digits = tmp_path / 'digits'
    tool = ROOT / 'tools' / 'make_mini_digits.py'
    subprocess.run([sys.executable, tool, digits], check=True)
    place = ('--work-dir', tmp_path / 'run')
    trained = mim('train', 'mmpretrain', MINI, *place, digits_root=digits)
    assert trained.returncode == 0, trained.stdout
    checkpoint = (tmp_path / 'run' / 'last_checkpoint').read_text()
    tested = mim(
        *('test', 'mmpretrain', MINI, '--checkpoint', checkpoint, *place),
        digits_root=digits,
    )
    assert tested.returncode == 0, tested.stdout
    accuracy = float(re.findall(r'accuracy/top1: ([\d.]+)', tested.stdout)[-1])
    print(f'top-1 {accuracy}')
    assert accuracy >= 90
    results = [json.loads(p.read_text()) for p in (tmp_path / 'run').glob('*/2*.json')]
    assert any(
        r.get('accuracy/top1') == pytest.approx(accuracy, abs=1e-3) for r in results
    )


@pytest.mark.slow
def test_ablation_resumes_where_it_stopped(tmp_path):
    digits = tmp_path / 'digits'
    subprocess.run(
        [sys.executable, ROOT / 'tools' / 'make_mini_digits.py', digits], check=True
    )
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        from ablate import VARIANTS
    finally:
        sys.path.pop(0)
    *done, last = VARIANTS
    lines = ['variant,seed,top1', *(f'"{name}",0,50.0' for name in done)]
    (tmp_path / 'ablation.csv').write_text('\n'.join(lines) + '\n')
    tool = ROOT / 'tools' / 'ablate.py'
    options = ['--out', tmp_path, '--seeds', '1', '--epochs', '1']
    subprocess.run([sys.executable, tool, digits, *options], check=True)
    rows = (tmp_path / 'ablation.md').read_text().splitlines()[2:]
    assert [row.split(' | ')[0].strip('| ') for row in rows] == list(VARIANTS)
    accuracies = [float(row.split(' | ')[4].split(' ±')[0]) for row in rows]
    assert accuracies[:-1] == [50.0] * len(done)
    # One epoch is better than chance, and no other run was repeated.
    assert 10 < accuracies[-1] != 50
    assert len((tmp_path / 'ablation.csv').read_text().splitlines()) == 11
    assert rows[0].startswith('| CrossFormer | 29.9 | ') and ' | 1.00 | ' in rows[0]
    assert (tmp_path / 'ablation.png').stat().st_size > 10_000
