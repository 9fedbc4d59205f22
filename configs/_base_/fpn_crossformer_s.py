# Semantic FPN on all four outputs, for the 150 classes of ADE20K.
_base_ = ['mmseg::_base_/models/fpn_r50.py', 'crossformer_s.py']

model = dict(
    data_preprocessor=dict(size=(512, 512)),  # training crop
    pretrained=None,
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=[96, 192, 384, 768]),
    decode_head=dict(num_classes=150),
)
