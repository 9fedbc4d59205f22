_base_ = 'retinanet_crossformer_s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='CrossFormerPP_S',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformerpp-s.pth'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
