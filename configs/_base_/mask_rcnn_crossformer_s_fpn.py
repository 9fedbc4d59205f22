# Mask R-CNN on all four outputs.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'crossformer_s.py']

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
