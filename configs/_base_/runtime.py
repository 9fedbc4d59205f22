# What every config needs to find the plugin. Imported here as well, the plugin helps to
# find the bases after this one: those of mmseg, with the OneDL forks. By an import
# statement it would become a config of MMEngine's lazy kind.
__import__('crossformer_mm')

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
runner_type = 'CheckedRunner'
# Resumed after an epoch, a training draws the numbers it would have drawn.
custom_hooks = [dict(type='EpochSeedHook')]
