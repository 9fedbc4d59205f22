_base_ = '_base_/classifier_crossformer_s.py'
model = dict(
    backbone=dict(type='CrossFormer_L'),
    neck=dict(in_channels=1024),
    head=dict(in_channels=1024),
)
