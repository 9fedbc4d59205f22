_base_ = 'retinanet_crossformer_s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='CrossFormer_B',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-b.pth'),
    ),
)
