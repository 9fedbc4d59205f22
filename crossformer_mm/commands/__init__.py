"""The commands that pip installs: ``crossformer-config``, ``crossformer-weights``."""
