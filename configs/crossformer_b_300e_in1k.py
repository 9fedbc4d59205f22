_base_ = '_base_/classifier_crossformer_s.py'
model = dict(backbone=dict(type='CrossFormer_B'))
