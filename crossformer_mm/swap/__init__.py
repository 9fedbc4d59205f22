"""Replace the backbone of any config of MMDetection or MMSegmentation.

``rules``         the changes to the config
``write_config``  the new config as text
``dry_run``       one step of the new model on a synthetic batch
"""
