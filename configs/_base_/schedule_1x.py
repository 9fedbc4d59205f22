# 12 epochs of AdamW as published: lr 1e-4 and weight decay 1e-4 for a batch of 16.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.0001)
)
