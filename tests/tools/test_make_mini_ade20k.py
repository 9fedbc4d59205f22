"""The mini set has the layout and labels of ADE20K, and correct label maps."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import LoadAnnotations

TOOLS = Path(__file__).parents[2] / 'tools'
SPLITS = {'training': ('train', 3), 'validation': ('val', 2)}


def run_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / 'make_mini_ade20k.py'), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope='module')
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('mini') / 'ade20k'
    result = run_tool(out, '--train', 3, '--val', 2, '--size', 96)
    assert result.returncode == 0, result.stderr
    return out


def test_layout_matches_ade20k(mini: Path) -> None:
    names = {str(path.relative_to(mini)) for path in mini.rglob('*') if path.is_file()}
    assert names == {
        f'{kind}/{split}/ADE_{part}_{index:08d}.{suffix}'
        for split, (part, images) in SPLITS.items()
        for kind, suffix in (('images', 'jpg'), ('annotations', 'png'))
        for index in range(1, images + 1)
    }


@pytest.mark.parametrize('split', SPLITS)
def test_labels_match_ade20k(mini: Path, split: str, monkeypatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    from make_mini_ade20k import LABELS, UNLABELLED

    classes = ADE20KDataset.METAINFO['classes']
    for label, name in LABELS.values():
        assert classes[label - 1] == name
    known = {label for label, _ in LABELS.values()} | {UNLABELLED}
    for path in (mini / 'annotations' / split).iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (96, 96) and labels.dtype == np.uint8
        assert set(np.unique(labels)) <= known
        # Only the outlines are unlabelled.
        assert 0 < (labels == UNLABELLED).mean() < 0.1


def test_labels_match_the_object_positions(mini: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    from make_mini_ade20k import LABELS, tinted
    from parts.mini_scenes import SUPERSAMPLE, make_scene

    scene = make_scene([0, 0, 0], 96)
    path = mini / 'annotations' / 'training' / 'ADE_train_00000001.png'
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    image = tinted(scene)
    for name, visible in scene.objects:
        inside = visible.reshape(96, SUPERSAMPLE, 96, SUPERSAMPLE).all((1, 3))
        assert inside.any()
        assert (labels[inside] == LABELS[name][0]).all()
        # The background tint does not affect the objects.
        assert (image[inside] == scene.image[inside]).all()
    behind = labels == LABELS[scene.background][0]
    assert np.abs(image[behind].astype(int) - scene.image[behind]).mean() > 5
    written = cv2.imread(str(mini / 'images' / 'training' / 'ADE_train_00000001.jpg'))
    assert np.abs(written[..., ::-1].astype(int) - image).mean() < 5


def test_mmseg_ignores_unlabelled_pixels(mini: Path) -> None:
    dataset = ADE20KDataset(
        data_root=str(mini),
        data_prefix=dict(
            img_path='images/validation', seg_map_path='annotations/validation'
        ),
        pipeline=[dict(type=LoadImageFromFile), dict(type=LoadAnnotations)],
    )
    assert len(dataset) == 2
    labels = dataset[0]['gt_seg_map']
    raw = cv2.imread(dataset[0]['seg_map_path'], cv2.IMREAD_UNCHANGED)
    assert (labels[raw == 0] == 255).all()
    assert (labels[raw > 0] == raw[raw > 0] - 1).all()


def test_output_depends_on_the_seed_only(mini: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        run_tool(
            *(tmp_path / str(seed), '--train', 3, '--val', 2),
            *('--size', 96, '--seed', seed),
        )
    path = 'images/training/ADE_train_00000002.jpg'
    original = (mini / path).read_bytes()
    assert (tmp_path / '0' / path).read_bytes() == original
    assert (tmp_path / '1' / path).read_bytes() != original


def test_existing_set_is_refused(mini: Path) -> None:
    result = run_tool(mini)
    assert result.returncode != 0
    assert result.stderr.startswith(f'make_mini_ade20k: {mini} already holds something')
