# For one GPU of 8 GB. Added to a config CONFIG.py, in a new file beside it:
#
#     _base_ = ['CONFIG.py', '_base_/small_memory.py']
#     model = _base_.small_memory.model
#     train_dataloader = _base_.small_memory.train_dataloader
#     optim_wrapper = _base_.small_memory.optim_wrapper
#     auto_scale_lr = _base_.small_memory.auto_scale_lr
#
# (MMEngine allows no key in two bases, hence the four lines.)
#
# What it costs: with_cp computes each block twice in training; lda_mode='group' is
# another long-distance attention than CrossFormer-T, -S, -B and -L were pretrained
# with, so results may differ, and the trained network must be used in this mode; two
# images per step take 8 times the iterations at an 8th of the learning rate. (One is
# too few for UPerNet: where it pools to a single pixel, its batch norm needs two.)
# What it saves: tools/get_memory.py measures it, with --cfg-options for the first line
# below. Mixed precision needs a GPU and was not measured.
small_memory = dict(
    model=dict(backbone=dict(with_cp=True, lda_mode='group')),
    train_dataloader=dict(batch_size=2),
    optim_wrapper=dict(type='AmpOptimWrapper'),
    auto_scale_lr=dict(enable=True),
)
