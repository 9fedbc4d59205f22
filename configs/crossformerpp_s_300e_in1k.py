_base_ = '_base_/classifier_crossformer_s.py'
model = dict(
    backbone=dict(type='CrossFormerPP_S'),
    neck=dict(in_channels=512),
    head=dict(in_channels=512),
)
