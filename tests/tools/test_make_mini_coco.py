"""Configs and evaluators can use the mini set like COCO."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

TOOL = Path(__file__).parents[2] / 'tools' / 'make_mini_coco.py'
SPLITS = ('train2017', 'val2017')
USED = {'sports ball', 'stop sign', 'kite', 'banana', 'vase'}


def run_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the tool in a new process."""
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def read(root: Path, split: str) -> dict:
    """Return a split's annotation file."""
    return json.loads((root / 'annotations' / f'instances_{split}.json').read_text())


@pytest.fixture(scope='module')
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a set of fewer images than usual, in full size."""
    out = tmp_path_factory.mktemp('data') / 'not' / 'yet' / 'there'
    result = run_tool(out, '--train', 30, '--val', 25)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope='module', params=SPLITS)
def coco(request: pytest.FixtureRequest, mini: Path) -> COCO:
    """Return a split as read by pycocotools."""
    return COCO(mini / 'annotations' / f'instances_{request.param}.json')


def test_layout_matches_coco(mini: Path) -> None:
    assert {path.name for path in mini.iterdir()} == {*SPLITS, 'annotations'}
    assert {path.name for path in (mini / 'annotations').iterdir()} == {
        'instances_train2017.json',
        'instances_val2017.json',
    }
    for split, count in zip(SPLITS, (30, 25), strict=True):
        content = read(mini, split)
        assert set(content) == {
            'info',
            'licenses',
            'images',
            'annotations',
            'categories',
        }
        files = {path.name for path in (mini / split).iterdir()}
        assert files == {image['file_name'] for image in content['images']}
        assert len(files) == count
        for image in content['images']:
            assert image['file_name'] == f'{image["id"]:012d}.jpg'
            pixels = cv2.imread(str(mini / split / image['file_name']))
            assert pixels.shape == (image['height'], image['width'], 3) == (160, 160, 3)


def test_categories_match_coco(coco: COCO) -> None:
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert coco.getCatIds() == [i for i in range(1, 91) if i not in gaps]
    assert len({category['name'] for category in coco.cats.values()}) == 80
    known = {
        1: ('person', 'person'),
        13: ('outdoor', 'stop sign'),
        25: ('animal', 'giraffe'),
        37: ('sports', 'sports ball'),
        51: ('kitchen', 'bowl'),
        59: ('food', 'pizza'),
        70: ('furniture', 'toilet'),
        82: ('appliance', 'refrigerator'),
        90: ('indoor', 'toothbrush'),
    }
    for number, (group, name) in known.items():
        assert coco.cats[number]['supercategory'] == group
        assert coco.cats[number]['name'] == name


def test_categories_are_in_the_order_of_mmdet(coco: COCO) -> None:
    datasets = pytest.importorskip('mmdet.datasets')
    names = tuple(category['name'] for category in coco.loadCats(coco.getCatIds()))
    assert names == datasets.CocoDataset.METAINFO['classes']


def test_annotations_agree_with_their_masks(coco: COCO) -> None:
    for entry in coco.anns.values():
        mask = coco.annToMask(entry)
        rows, columns = np.nonzero(mask)
        left, top = columns.min(), rows.min()
        box = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert entry['bbox'] == box
        assert entry['area'] == mask.sum() > 0
        assert entry['iscrowd'] == 0
        assert entry['image_id'] in coco.imgs
        for polygon in entry['segmentation']:
            assert len(polygon) >= 6 and len(polygon) % 2 == 0
            assert min(polygon) >= 0 and max(polygon) <= 160


def test_masks_of_one_image_overlap_at_borders_only(coco: COCO) -> None:
    kernel = np.ones((3, 3), np.uint8)
    for entries in coco.imgToAnns.values():
        cores = [cv2.erode(coco.annToMask(entry), kernel) for entry in entries]
        for one, other in itertools.combinations(cores, 2):
            assert not (one & other).any()


def test_objects_occlude_each_other(coco: COCO) -> None:
    """Check that some boxes overlap clearly although their masks do not."""
    overlaps = 0
    for entries in coco.imgToAnns.values():
        for one, other in itertools.combinations(entries, 2):
            (x, y, w, h), (a, b, c, d) = one['bbox'], other['bbox']
            width = min(x + w, a + c) - max(x, a)
            height = min(y + h, b + d) - max(y, b)
            overlaps += width > 8 and height > 8
    assert overlaps >= 5


def test_one_to_five_objects_in_every_image(coco: COCO) -> None:
    counts = {len(coco.imgToAnns[number]) for number in coco.imgs}
    assert counts <= set(range(1, 6))
    assert len(counts) >= 4


def test_same_classes_and_all_sizes_in_both_splits(coco: COCO) -> None:
    areas = defaultdict(list)
    for entry in coco.anns.values():
        areas[coco.cats[entry['category_id']]['name']].append(entry['area'])
    assert set(areas) == USED
    for of_class in areas.values():
        assert max(of_class) > 3 * min(of_class)
    everything = np.concatenate(list(areas.values()))
    assert (everything < 32**2).any()
    assert ((everything >= 32**2) & (everything < 96**2)).any()
    assert (everything >= 96**2).any()


def test_train_and_val_are_disjoint(mini: Path) -> None:
    train, val = (read(mini, split) for split in SPLITS)
    for part in ('images', 'annotations'):
        ids = [entry['id'] for entry in train[part] + val[part]]
        assert len(ids) == len(set(ids))
    pictures = [d for name, d in digests(mini).items() if name.endswith('.jpg')]
    assert len(pictures) == len(set(pictures)) == 55


def test_output_depends_on_the_seed_only(tmp_path: Path) -> None:
    size = ('--train', 3, '--val', 2, '--size', 64)
    for name, seed in (('one', 7), ('same', 7), ('other', 8)):
        result = run_tool(tmp_path / name, *size, '--seed', seed)
        assert result.returncode == 0, result.stderr
    one, same, other = (digests(tmp_path / name) for name in ('one', 'same', 'other'))
    assert one == same
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_summary_counts_the_objects(tmp_path: Path) -> None:
    out = tmp_path / 'set'
    summary = run_tool(out, '--train', 2, '--val', 1, '--size', 64).stdout
    objects = len(read(out, 'train2017')['annotations'])
    assert f'train2017: 2 images, {objects} objects' in summary
    assert all(name in summary for name in USED)


def test_existing_set_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / 'mine.txt').write_text('precious')
    result = run_tool(tmp_path, '--train', 1, '--val', 1, '--size', 64)
    assert result.returncode == 1
    assert result.stderr.count('\n') == 1
    assert str(tmp_path) in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']
    assert (tmp_path / 'mine.txt').read_text() == 'precious'


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    result = run_tool(tmp_path, '--train', 1, '--val', 1, '--size', 64)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'val2017').is_dir()


def test_failed_run_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TOOL.parent)
    import make_mini_coco

    def fail(*_: object) -> None:
        raise OSError('no space left on device')

    out = tmp_path / 'set'
    monkeypatch.setattr(sys, 'argv', ['tool', str(out), '--train', '1', '--val', '1'])
    monkeypatch.setattr(make_mini_coco.json, 'dumps', fail)
    with pytest.raises(SystemExit, match='set cannot be written: no space left'):
        make_mini_coco.main()
    assert not list(tmp_path.iterdir())


def test_killed_run_leaves_no_set(tmp_path: Path) -> None:
    out = tmp_path / 'set'
    run = subprocess.Popen(
        [sys.executable, str(TOOL), str(out)], stdout=subprocess.DEVNULL
    )
    while run.poll() is None and not list(tmp_path.glob('.set-*/set/train2017/*.jpg')):
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_unwritable_path_is_a_one_line_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = run_tool(tmp_path / 'set')
    assert result.returncode == 1
    assert result.stderr.count('\n') == 1
    assert 'cannot be written' in result.stderr


@pytest.mark.parametrize(
    'option', [('--train', '0'), ('--val', '-1'), ('--size', '63'), ('--seed', 'x')]
)
def test_invalid_number_errors(tmp_path: Path, option: tuple[str, str]) -> None:
    result = run_tool(tmp_path / 'set', *option)
    assert result.returncode == 2
    assert f'{option[0]}: {option[1]} is no whole number >= ' in result.stderr
    assert not list(tmp_path.iterdir())
