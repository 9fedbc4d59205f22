"""Check a config and its data before a training.

    python tools/preflight.py CONFIG
    mim run crossformer_mm preflight CONFIG

Prints one line per finding: verdict, part, finding and remedy. A 'FAIL' would stop or
ruin the training, a 'warn' might. The exit code is 1 if any line says FAIL. Works for
any config of MMDetection or MMSegmentation, with any backbone.
"""

import argparse
import os
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

import crossformer_mm  # noqa: F401 - registers the backbones
from crossformer_mm.preflight import CHECKS
from crossformer_mm.swap.dry_run import first_line
from parts.output import fail


def main() -> int:
    """Run all checks and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument(
        '--processes', type=int, metavar='N', help='of the training, usually GPUs'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE'
    )
    args = parser.parse_args()
    if not args.config.is_file():
        fail(f'there is no file {args.config}')
    warnings.simplefilter('ignore')
    MMLogger.get_instance('preflight', log_level='CRITICAL')
    if args.processes:  # the launcher sets it, and configs can read it
        os.environ['WORLD_SIZE'] = str(args.processes)
    try:
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
    except Exception as error:
        fail(f'{args.config}: {first_line(error)}')
    for key in ('model', 'train_dataloader', 'train_cfg'):
        if not cfg.get(key):
            fail(f'{args.config} has no {key}: it trains nothing')
    if args.processes:
        cfg.processes = args.processes
    failed = False
    for check in CHECKS:
        # pycocotools and the metrics print their progress.
        with open(os.devnull, 'w') as silence, redirect_stdout(silence):
            findings = list(check(cfg))
        for finding in findings:
            print(finding, flush=True)
            failed |= finding.verdict == 'FAIL'
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
