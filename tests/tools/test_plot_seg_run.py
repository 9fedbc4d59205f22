"""Plots of a segmentor's run on unusual data."""

import json
import sys

import cv2
import numpy as np
import pytest

from tests.helpers import ROOT
from tests.odd_data import make_labels

VOID = 40


@pytest.fixture
def plot_seg_run(monkeypatch):
    """Return the tool as a module; a new process would import mmseg for seconds."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import plot_seg_run

    return plot_seg_run


@pytest.fixture
def tested(tmp_path):
    """Return a work folder with the ground truth as predictions, and its config."""

    def make(classes, void, reduced=False):
        make_labels(tmp_path / 'data', classes, void, '.jpg')
        config = tmp_path / 'config.py'
        config.write_text(f"""
default_scope = 'mmseg'
test_dataloader = dict(
    dataset=dict(
        type='BaseSegDataset',
        data_root={str(tmp_path / 'data')!r},
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        metainfo=dict(classes={classes!r}),
        reduce_zero_label={reduced},
        pipeline=[]))
""")
        work_dir = tmp_path / 'work'
        for name in ('20250101_000000', '20250102_000000'):
            (work_dir / name / 'vis_data').mkdir(parents=True)
        records = [{'loss': 1.0, 'step': 1}, {'loss': 0.5, 'step': 2}]
        records.append({'mDice': 50.0, 'mIoU': 40.0, 'step': 2, 'time': 0.1})
        log = work_dir / '20250101_000000' / 'vis_data' / 'scalars.json'
        log.write_text('\n'.join(map(json.dumps, records)))
        result = work_dir / '20250102_000000' / '20250102_000000.json'
        result.write_text(json.dumps({'mDice': 50.0, 'mIoU': 40.0, 'time': 0.1}))
        (work_dir / 'predictions').mkdir()
        for path in (tmp_path / 'data' / 'labels' / 'val').iterdir():
            labels = cv2.imread(str(path), -1)
            labels[labels == void] = reduced  # networks predict a class there
            assert cv2.imwrite(str(work_dir / 'predictions' / path.name), labels)
        return work_dir, config

    return make


@pytest.mark.parametrize(
    ('count', 'void', 'reduced'), [(40, VOID, False), (2, 255, False), (9, 255, True)]
)
def test_image_sizes_void_labels_and_class_counts(
    count, void, reduced, tested, plot_seg_run, monkeypatch, capsys
):
    classes = tuple(f'class {i}' for i in range(count))
    work_dir, config = tested(classes, void, reduced)
    arguments = ['plot_seg_run.py', str(work_dir), str(config)]
    monkeypatch.setattr(sys, 'argv', arguments)
    plot_seg_run.main()
    assert 'mIoU 40.00 %, mDice 50.00 %' in capsys.readouterr().out
    examples, names = plot_seg_run.read_examples(work_dir / 'predictions', config)
    assert names == classes
    for image, truth, prediction in examples:
        assert image.shape[:2] == truth.shape == prediction.shape
        known = truth < count
        assert (truth == prediction)[known].all()
    picture = cv2.imread(str(work_dir / 'predictions.png'))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def test_void_is_white_and_unlabelled_in_the_legend(plot_seg_run):
    truth = np.array([[0, 1], [VOID, VOID]], np.uint8)
    example = (np.zeros((2, 2, 3), np.uint8), truth, truth % 2)
    figure = plot_seg_run.plot_predictions([example], ('road', 'car'))
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ['road', 'car', 'unlabelled']
    (drawn,) = figure.axes[1].get_images()
    assert (drawn.get_array()[1] == 1).all()


def test_missing_test_results_are_one_message(tested, plot_seg_run, monkeypatch):
    work_dir, config = tested(('road', 'car'), 255)
    (work_dir / '20250102_000000' / '20250102_000000.json').unlink()
    for path in (work_dir / 'predictions').iterdir():
        path.unlink()
    (work_dir / 'predictions').rmdir()
    monkeypatch.setattr(sys, 'argv', ['x.py', str(work_dir), str(config)])
    with pytest.raises(SystemExit, match='and no test .* mmsegmentation .*--out'):
        plot_seg_run.main()


def test_help_shows_the_required_test_command(plot_seg_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['plot_seg_run.py', '--help'])
    with pytest.raises(SystemExit):
        plot_seg_run.main()
    assert '--out WORK_DIR/predictions' in capsys.readouterr().out
