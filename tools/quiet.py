"""Run a training or a test and print only its progress and results.

    python tools/quiet.py mim train mmdet CONFIG --work-dir WORK_DIR

The complete output is in `WORK_DIR/TIME/TIME.log`. If the command fails, its last lines
are printed.
"""

import re
import subprocess
import sys
from collections import deque

LAST = 30  # lines printed after a failure
STEP = re.compile(
    r'(?:Epoch|Iter)\(train\) +(\[.*?\d+/\d+\]) .*eta: (\S+) .*?\b(loss: \S+)'
)
RESULT = re.compile(r'(?:Epoch|Iter)\((?:val|test)\)')
METRIC = re.compile(r'\b(\w+_mAP|mIoU): +(\S+)')


def main() -> None:
    """Run the command and exit with its exit code."""
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'):
        sys.exit('usage: quiet.py COMMAND ...')
    print('$', *sys.argv[1:], flush=True)
    last: deque[str] = deque(maxlen=LAST)
    with subprocess.Popen(
        sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            last.append(line)
            if text := progress(line):
                print(f'  {text}', flush=True)
    if process.returncode:
        print(*last, sep='')
    sys.exit(process.returncode)


def progress(line: str) -> str:
    """Return the progress or result in a line of MMEngine's log, or an empty string."""
    if step := STEP.search(line):
        where, left, loss = step.groups()
        return f'{where} {loss}, {left} left'
    metrics = METRIC.findall(line) if RESULT.search(line) else ()
    return ', '.join(f'{name} {value}' for name, value in metrics)


if __name__ == '__main__':
    main()
