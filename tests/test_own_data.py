"""The commands of docs/own_data.md on unusual data."""

import os
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS, DefaultScope

from tests.helpers import ROOT, on_openmmlab, run_block
from tests.odd_data import make_coco, make_labels

MARK = re.compile(
    r'<!-- tested by tests/test_own_data.py -->\n```(\w+)\n(.+?)```', re.DOTALL
)
FORTY = tuple(f'class {i}' for i in range(40))
# Ten iterations with the smallest network.
SHORT = dict(images=5, epochs=4, batch_size=2, weights=None, scale=(96, 64))
BACKBONE = "'CrossFormer_T', [64, 128, 256, 512]"

BY_HAND = pytest.mark.skipif(
    'OWN_DATA_ALL' not in os.environ, reason='OWN_DATA_ALL=1 runs it'
)


@pytest.fixture
def run_half(tmp_path):
    """Return a function that runs the commands of one half of the page."""
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    _, detection, segmentation = re.split(
        '^## ', (ROOT / 'docs' / 'own_data.md').read_text(), flags=re.MULTILINE
    )

    def run(title, config, **lines):
        text = detection if title == 'Detection' else segmentation
        assert text.startswith(title)
        blocks = MARK.findall(text)
        assert len(blocks) >= 4
        for language, block in blocks:
            output = run_block(language, block, tmp_path)
            if '--copy' in block:
                edit(tmp_path / config, **lines)
        return output

    return run


def edit(config, **lines):
    """Change the first lines of a copied config."""
    text = config.read_text()
    for name, value in lines.items():
        name = name.replace('__', ', ')
        line = f'{name} = {value!r}'
        text, count = re.subn(rf'^{name} = .*$', line, text, count=1, flags=re.M)
        assert count, name
    text = re.sub('(?<=^backbone, channels = ).*$', BACKBONE, text, flags=re.M)
    config.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('classes', [FORTY, pytest.param(FORTY[:1], marks=BY_HAND)])
def test_detection(classes, run_half, tmp_path):
    make_coco(tmp_path / 'my_data', classes)
    # This rate gives detections after ten iterations; the last block prints them.
    lines = dict(SHORT, classes=classes, lr=3.5e-5, neck_norm=None)
    output = run_half('Detection', 'own_coco_example.py', **lines)
    run = tmp_path / 'work_dirs' / 'det'
    assert names(run / 'demo' / 'vis') == names(tmp_path / 'my_data' / 'val2017')
    for name in ('curves.png', 'predictions.png', 'confusion_matrix.png'):
        assert cv2.imread(str(run / name)).std() > 1
    assert names(run / 'worst' / 'bad')
    assert names(run / 'browse')
    assert all(line.startswith('class ') for line in output.splitlines() if '[' in line)


@pytest.mark.slow
@on_openmmlab
@pytest.mark.parametrize(
    ('classes', 'void', 'suffix'),
    [(FORTY[:20], 200, '.jpg'), pytest.param(FORTY[:2], 255, '.png', marks=BY_HAND)],
)
def test_segmentation(classes, void, suffix, run_half, tmp_path):
    make_labels(tmp_path / 'my_labels', classes, void, suffix)
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[0], colours[1] = (0, 0, 255), (9, 9, 9)  # BGR
    for folder in ('coloured', 'numbers'):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / 'coloured' / 'a.png'), colours)
    output = run_half(
        *('Segmentation', 'own_segmentation_example.py'),
        **dict(SHORT, crop=(64, 64)),
        classes=classes,
        void=void,
        image_suffix__label_suffix=(suffix, '.png'),
    )
    numbers = cv2.imread(str(tmp_path / 'numbers' / 'a.png'), -1)
    assert numbers[:, 0].tolist() == [1, 255, 0, 0]
    run = tmp_path / 'work_dirs' / 'seg'
    images = tmp_path / 'my_labels' / 'images' / 'val'
    assert names(run / 'demo' / 'vis') == names(images)
    stems = {Path(name).stem for name in names(images)}
    assert {Path(name).stem for name in names(run / 'demo' / 'preds')} == stems
    for name in ('curves.png', 'predictions.png'):
        assert cv2.imread(str(run / name)).std() > 1
    assert len(names(run / 'browse')) == 4
    assert (run / 'confusion_matrix.png').stat().st_size > 10_000
    assert 'class ' in output


def train(config, work_dir):
    """Train two steps with a copied config and evaluate; return the log."""
    cfg = Config.fromfile(config)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = cfg.visualizer.name = str(work_dir)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.default_hooks.checkpoint.update(interval=-1, save_best=None, save_last=False)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        runner = RUNNERS.build(cfg)
        runner.train()
        return runner.message_hub.log_scalars


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Return a function that copies an example to a new folder."""

    def copy(name, **lines):
        shutil.copy(ROOT / 'configs' / f'{name}.py', tmp_path)
        edit(tmp_path / f'{name}.py', **lines)
        return tmp_path / f'{name}.py'

    monkeypatch.chdir(tmp_path)
    return copy


@pytest.mark.slow
def test_boxes_of_one_class(copied, tmp_path):
    make_coco(tmp_path / 'my_data', ('kite',), masks=False)
    few = dict(SHORT, epochs=1)
    config = copied('own_coco_example', classes=('kite',), masks=False, **few)
    assert 'val/coco/bbox_mAP' in train(config, tmp_path / 'run')


@pytest.mark.slow
@on_openmmlab
def test_labels_of_one_class_and_its_background(copied, tmp_path):
    classes = ('background', 'kite')
    make_labels(tmp_path / 'my_labels', classes, 255, '.png')
    config = copied(
        'own_segmentation_example',
        **dict(SHORT, crop=(64, 64)),
        classes=classes,
        image_suffix__label_suffix=('.png', '.png'),
    )
    assert 'val/mIoU' in train(config, tmp_path / 'run')


@pytest.mark.slow
@on_openmmlab
def test_compare_backbones(copied, tmp_path, monkeypatch):
    """Run a minimal comparison, then continue it with another backbone."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import compare_backbones

    make_labels(tmp_path / 'my_labels', ('kite', 'ball'), 255, '.jpg')
    lines = dict(SHORT, classes=('kite', 'ball'), crop=(64, 64))
    config = copied('own_segmentation_example', **lines)
    options = ['--seeds', '1', '--iterations', '2', '--out', str(tmp_path / 'out')]
    for names in (['CrossFormer-T'], ['CrossFormer-T', 'PVTv2-B2']):
        arguments = [str(config), *options, '--backbones', *names]
        monkeypatch.setattr(sys, 'argv', ['compare_backbones.py', *arguments])
        compare_backbones.main()
    pretrained = tmp_path / 'pretrained.py'
    pretrained.write_text(config.read_text().replace('weights = None', "weights = 'x'"))
    monkeypatch.setattr(sys, 'argv', ['compare_backbones.py', str(pretrained)])
    with pytest.raises(SystemExit, match='write weights = None'):
        compare_backbones.main()
    table = (tmp_path / 'out' / 'comparison.md').read_text()
    assert [line.split('|')[1].strip() for line in table.splitlines()[2:]] == names
    rows = (tmp_path / 'out' / 'comparison.csv').read_text().splitlines()[1:]
    assert [row.split(',')[::3][:2] for row in rows] == [
        *(['CrossFormer-T', '1'], ['CrossFormer-T', '2']),
        *(['PVTv2-B2', '1'], ['PVTv2-B2', '2']),
    ]
    assert cv2.imread(str(tmp_path / 'out' / 'comparison.png')).std() > 1


def test_nuclei_are_converted(tmp_path):
    stage = tmp_path / 'kaggle-dsbowl-2018-dataset-fixes' / 'stage1_train'
    for number in range(21):
        folder = stage / f'{number:02}'
        for kind in ('images', 'masks'):
            (folder / kind).mkdir(parents=True)
        picture = np.full((20, 30, 4), number, np.uint8)  # with an alpha channel
        cv2.imwrite(str(folder / 'images' / f'{folder.name}.png'), picture)
        for left in (0, 20):  # two nuclei
            mask = np.zeros((20, 30), np.uint8)
            mask[5:10, left : left + 10] = 255
            cv2.imwrite(str(folder / 'masks' / f'{left}.png'), mask)
    (stage / 'notes.txt').write_text('no folder')
    page = (ROOT / 'docs' / 'comparison.md').read_text()
    (block,) = (text for language, text in MARK.findall(page) if language == 'python')
    run_block('python', block, tmp_path)
    out = tmp_path / 'nuclei'
    assert names(out / 'images' / 'val') == ['00.png', '20.png']
    assert names(out / 'labels' / 'train') == [f'{n:02}.png' for n in range(1, 20)]
    assert cv2.imread(str(out / 'images' / 'val' / '20.png')).shape == (20, 30, 3)
    expected = np.zeros((20, 30), np.uint8)
    expected[5:10, :10] = expected[5:10, 20:] = 1
    found = cv2.imread(str(out / 'labels' / 'val' / '20.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize('images', [3, 18, 20_000])
@pytest.mark.parametrize('name', ['own_coco_example', 'own_segmentation_example'])
@on_openmmlab
def test_schedule_depends_on_the_data_size(name, images, copied):
    cfg = Config.fromfile(copied(name, images=images, epochs=10, batch_size=2))
    iterations = max(10, 5 * images)
    assert cfg.train_cfg.max_iters == iterations
    warm_up, cosine = cfg.param_scheduler
    assert 0 < warm_up.end <= min(500, iterations / 10)
    assert (cosine.begin, cosine.end) == (warm_up.end, iterations)
    every = cfg.train_cfg.val_interval
    assert every == cfg.default_hooks.checkpoint.interval <= iterations
    assert every >= min(50, iterations)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4 / 8**0.5)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.9
    assert cfg.load_from == cfg.weights
