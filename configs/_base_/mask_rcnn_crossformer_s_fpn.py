# Mask R-CNN on all four outputs.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='CrossFormer_S',
        group_size=[7, 7, 7, 7],
        crs_interval=[8, 4, 2, 1],
        init_cfg=dict(
            type='Pretrained', checkpoint='pretrained/backbone-crossformer-s.pth'
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
