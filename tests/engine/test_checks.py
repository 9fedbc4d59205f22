"""Checks of the data before a training; remote files are left to MMEngine."""

import json
import re

import pytest
from mmdet.datasets import CocoDataset
from mmengine.dataset import RepeatDataset
from mmengine.fileio import LocalBackend, register_backend

from crossformer_mm.engine.checks import (
    check_data,
    check_masks,
    dataset_paths,
    type_name,
    without_wrappers,
)

READ = dict(type='LoadImageFromFile')
COCO = dict(
    type='CocoDataset',
    data_root='root/',
    ann_file='annotations/a.json',
    data_prefix=dict(img='images/'),
    pipeline=[READ],
)


@register_backend('storage')
class Storage(LocalBackend):
    """Maps ``mem/`` to another folder; does not support ``isdir``."""

    path_mapping = {}

    def __init__(self, path_mapping):
        self.path_mapping = path_mapping

    def exists(self, path):
        for start, there in self.path_mapping.items():
            path = str(path).replace(start, there)
        return super().exists(path)

    def isdir(self, path):
        raise NotImplementedError


def check(**changes):
    check_data(None, dict(dataset=COCO | changes))


@pytest.fixture
def coco(tmp_path):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations' / 'a.json').touch()
    (tmp_path / 'images').mkdir()
    return tmp_path


def test_datasets_inside_wrappers_are_found():
    other = dict(COCO, data_root='b')
    repeated = dict(type='RepeatDataset', times=3, dataset=COCO)
    both = dict(type='ConcatDataset', datasets=[repeated, other])
    assert list(without_wrappers(both)) == [COCO, other]
    assert list(without_wrappers([1, 2])) == []  # already built


def test_dataset_paths():
    assert list(dataset_paths(COCO)) == ['root/annotations/a.json', 'root/images/']
    assert list(dataset_paths(dict(type='Generated'))) == []
    imagenet = dict(type='ImageNet', data_root='root', split='val')
    assert list(dataset_paths(imagenet)) == ['root/val']
    custom = dict(data_root='root', data_prefix='train', pipeline=[READ])
    assert list(dataset_paths(custom)) == ['root/train']
    archive = dict(COCO, pipeline=[dict(type='LoadImageFromArchive')])
    assert list(dataset_paths(archive)) == ['root/annotations/a.json']
    remote = dict(COCO, ann_file='s3://a.json', data_prefix=dict(img='/images'))
    assert list(dataset_paths(remote)) == ['s3://a.json', '/images']


@pytest.mark.parametrize(
    'kind',
    [
        *('CocoDataset', 'mmdet.CocoDataset', CocoDataset),
        f'{CocoDataset.__module__}.CocoDataset',
    ],
)
def test_missing_data_error_says_how_to_get_it(kind, coco):
    assert type_name(dict(type=kind)) == 'CocoDataset'
    check(type=kind, data_root=str(coco))
    (coco / 'images').rmdir()
    message = re.escape(f'Data not found: {coco}/images/\nGet COCO 2017')
    with pytest.raises(FileNotFoundError, match=message):
        check(type=kind, data_root=str(coco))


def test_other_dataset_types_are_not_checked():
    check(type='Flowers102', split='train')


@pytest.mark.parametrize('place', ['http://a.b/a.json', 's3://a/a.json', 'z://a.json'])
def test_remote_files_are_not_checked(place, coco):
    check(data_root=str(coco), ann_file=place)


@pytest.mark.parametrize('reader', ['data set', 'pipeline'])
def test_paths_are_checked_with_the_file_client(reader, coco):
    client = dict(backend='storage', path_mapping={'mem/': f'{coco}/'})
    if reader == 'data set':
        changes = dict(backend_args=client)
    else:
        pipeline = [dict(READ, backend_args=client)]
        changes = dict(ann_file=f'{coco}/annotations/a.json', pipeline=pipeline)
    check(data_root='mem/', **changes)
    check(data_root='mem/', **changes, data_prefix=dict(img='nowhere'))  # no isdir
    with pytest.raises(FileNotFoundError, match='elsewhere/annotations'):
        check(data_root='elsewhere')


def test_classes_given_as_a_string(coco):
    message = r"metainfo.classes is the text 'kite'.*classes=\('kite',\)"
    with pytest.raises(ValueError, match=message):
        check(data_root=str(coco), metainfo=dict(classes=('kite')))
    with pytest.raises(ValueError, match=message):
        check(type='AnyDataset', metainfo=dict(classes='kite'))
    (coco / 'classes.txt').write_text('kite')
    check(data_root=str(coco), metainfo=dict(classes=str(coco / 'classes.txt')))
    check(data_root=str(coco), metainfo=dict(classes=('kite',)))


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('with_mask', [False, True])
@pytest.mark.parametrize('lacking', ['none', 'one', 'all'])
def test_objects_without_masks(lacking, with_mask, wrapped, tmp_path):
    images = [
        dict(id=i, file_name=f'image {i}.jpg', width=9, height=9) for i in (0, 1, 2)
    ]
    box = dict(iscrowd=0, category_id=1, bbox=[1, 1, 5, 5], area=25)
    mask = dict(segmentation=[[1, 1, 6, 1, 6, 6]])
    objects = [dict(box, **mask, id=i + 1, image_id=i) for i in (0, 2)]
    for entry in {'none': [], 'one': objects[1:], 'all': objects}[lacking]:
        del entry['segmentation']
    content = dict(images=images, annotations=objects)
    content['categories'] = [dict(id=1, name='kite')]
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = CocoDataset(
        ann_file=str(tmp_path / 'a.json'),
        data_prefix=dict(img=''),
        metainfo=dict(classes=('kite',)),
        pipeline=[dict(type='mmdet.LoadAnnotations', with_mask=with_mask)],
    )
    dataset = RepeatDataset(dataset, 2) if wrapped else dataset
    if with_mask and lacking != 'none':
        name = 'image 0' if lacking == 'all' else 'image 2'
        with pytest.raises(ValueError, match=f'{name}.jpg has a box and no mask'):
            check_masks(dataset)
    else:
        check_masks(dataset)
