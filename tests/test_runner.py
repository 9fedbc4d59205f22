from crossformer_mm.runner import dataset_paths


def test_dataset_paths_looks_through_wrappers():
    coco = dict(
        type='CocoDataset',
        data_root='root/',
        ann_file='annotations/a.json',
        data_prefix=dict(img='images/'),
    )
    repeated = dict(type='RepeatDataset', times=3, dataset=coco)
    both = dict(type='ConcatDataset', datasets=[repeated, dict(coco, data_root='b')])
    assert list(dataset_paths(both)) == [
        'root/annotations/a.json',
        'root/images/',
        'b/annotations/a.json',
        'b/images/',
    ]


def test_dataset_without_files_names_none():
    assert list(dataset_paths(dict(type='Generated'))) == []
