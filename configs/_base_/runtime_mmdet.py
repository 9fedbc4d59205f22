# runtime.py with MMDetection's check that heads and data have the same classes.
_base_ = 'runtime.py'

custom_hooks = [dict(type='EpochSeedHook'), dict(type='NumClassCheckHook')]
