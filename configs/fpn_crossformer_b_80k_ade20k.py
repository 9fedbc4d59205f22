_base_ = 'fpn_crossformer_s_80k_ade20k.py'

model = dict(
    backbone=dict(
        type='CrossFormer_B',
        group_size=[7, 7, 7, 7],
        crs_interval=[8, 4, 2, 1],
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-b.pth'),
    ),
)
