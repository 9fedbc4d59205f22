# RetinaNet on the outputs with strides 8, 16 and 32, plus two extra levels.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'crossformer_s.py']

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
