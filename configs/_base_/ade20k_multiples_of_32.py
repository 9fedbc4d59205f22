# ADE20K, tested at multiples of 32 pixels, as published for Semantic FPN.
_base_ = 'ade20k.py'

to_multiples = dict(type='ResizeToMultiple', size_divisor=32)

load, resize, *others = _base_.test_pipeline
test_pipeline = [load, resize, to_multiples, *others]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

load, augment = _base_.tta_pipeline
resize, *others = augment['transforms']
tta_pipeline = [
    load,
    dict(type='TestTimeAug', transforms=[resize, [to_multiples], *others]),
]
