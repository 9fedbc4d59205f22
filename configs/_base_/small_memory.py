# For one GPU with 8 GB. To apply it to CONFIG.py, create a new file beside that:
#
#     _base_ = ['CONFIG.py', '_base_/small_memory.py']
#     model = _base_.small_memory.model
#     train_dataloader = _base_.small_memory.train_dataloader
#     optim_wrapper = _base_.small_memory.optim_wrapper
#     auto_scale_lr = _base_.small_memory.auto_scale_lr
#
# (MMEngine does not allow a key in two bases, hence the last four lines.)
#
# Costs: with_cp computes the forward pass of each block twice in training.
# lda_mode='group' differs from the long-distance attention that CrossFormer-T, -S, -B
# and -L were pretrained with, so results may differ, and the trained network must be
# used in this mode. Two images per step need 8 times the iterations at an 8th of the
# learning rate. (One image is too few for UPerNet: where it pools to a single pixel,
# batch norm needs two.)
# Savings: measure them with tools/get_memory.py and the first line below as
# --cfg-options. Mixed precision needs a GPU and was not measured.
small_memory = dict(
    model=dict(backbone=dict(with_cp=True, lda_mode='group')),
    train_dataloader=dict(batch_size=2),
    optim_wrapper=dict(type='AmpOptimWrapper'),
    auto_scale_lr=dict(enable=True),
)
