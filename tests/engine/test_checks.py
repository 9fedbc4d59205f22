from crossformer_mm.missing import dataset_paths, without_wrappers

COCO = dict(
    type='CocoDataset',
    data_root='root/',
    ann_file='annotations/a.json',
    data_prefix=dict(img='images/'),
)


def test_wrappers_are_looked_through():
    other = dict(COCO, data_root='b')
    repeated = dict(type='RepeatDataset', times=3, dataset=COCO)
    both = dict(type='ConcatDataset', datasets=[repeated, other])
    assert list(without_wrappers(both)) == [COCO, other]


def test_dataset_paths():
    assert list(dataset_paths(COCO)) == ['root/annotations/a.json', 'root/images/']
    assert list(dataset_paths(dict(type='Generated'))) == []
    imagenet = dict(type='ImageNet', data_root='root', split='val')
    assert list(dataset_paths(imagenet)) == ['root/val']
    custom = dict(type='CustomDataset', data_root='root', data_prefix='train')
    assert list(dataset_paths(custom)) == ['root/train']
