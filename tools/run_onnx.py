"""Run a file of export_onnx.py on an image or a folder of images, without PyTorch.

    python tools/run_onnx.py IMAGE_OR_FOLDER --model OUT.onnx --out DIR

Needs onnxruntime, numpy and OpenCV only, and so this one file on a server. Pictures go
into DIR/vis, what was found into DIR/preds, a JSON file an image, as of tools/demo.py:
of a detector labels, scores, boxes and masks, the masks as outlines; of a segmentor the
share of the image that each class covers, and its label map in DIR/pred.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import onnxruntime

IMAGE = 'images'  # the input's name
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp')


def main() -> None:
    """Run the images one by one."""
    args = parse_args()
    if not args.model.is_file():
        fail(f'{args.model} is missing')
    images = find_images(args.images)
    if args.out.exists() and any(args.out.iterdir()):
        fail(f'{args.out} holds something already: name another folder by --out')
    session, about = open_model(args.model)
    for path in images:
        image = cv2.imread(str(path))
        found = run(session, about, image)
        if about['task'] == 'segment':
            result, picture = segmented(found, about, image, path, args.out)
        else:
            result, picture = detected(found, about, image, args.score)
        write(args.out / 'vis' / f'{path.stem}.jpg', picture)
        (args.out / 'preds').mkdir(exist_ok=True)
        text = json.dumps(result, indent=1)
        (args.out / 'preds' / f'{path.stem}.json').write_text(text)
    print(f'{len(images)} of {len(images)} images: {args.out}')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'images', metavar='IMAGE_OR_FOLDER', type=Path, help='folders are not descended'
    )
    parser.add_argument('--model', metavar='OUT.onnx', type=Path, required=True)
    parser.add_argument('--out', type=Path, default=Path('demo'), help='default: demo')
    parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='least score of an object in the pictures (default: 0.3)',
    )
    return parser.parse_args()


def find_images(path: Path) -> list[Path]:
    """List the images that can be read; say which cannot."""
    if not path.exists():
        fail(f'{path} is missing')
    paths = [path]
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    images = []
    for path in paths:
        if cv2.imread(str(path)) is None:
            print(f'left out, cannot be read: {path}')
        elif path.stem in (image.stem for image in images):
            fail(f'{path} shares its name with another: their results would be one')
        else:
            images.append(path)
    if not images:
        fail(f'there is no image that can be read ({", ".join(SUFFIXES)})')
    return images


def open_model(path: Path) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """Load a file, and what it says of itself."""
    try:
        session = onnxruntime.InferenceSession(
            path, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # of many kinds, by the file's fault
        fail(f'{path} cannot be loaded: {str(error).splitlines()[0]}')
    meta = session.get_modelmeta().custom_metadata_map
    if 'crossformer_mm' not in meta:
        fail(f'{path} is not made by export_onnx.py')
    return session, json.loads(meta['crossformer_mm'])


def run(
    session: onnxruntime.InferenceSession, about: dict[str, Any], image: np.ndarray
) -> dict[str, np.ndarray]:
    """Resize an image ``[H, W, 3]`` as the network's test does, and run it.

    Returns:
        dict: Its outputs, with boxes and labels as they lie in the image.
    """
    height, width = image.shape[:2]
    resized = cv2.resize(image, new_size(about, width, height))
    x = resized.transpose(2, 0, 1)[None].astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {IMAGE: x})))
    if about['task'] == 'segment':
        labels = found['labels'][0].astype(np.int32)
        found['labels'] = cv2.resize(
            labels, (width, height), interpolation=cv2.INTER_NEAREST
        )
    else:
        factor = width / resized.shape[1], height / resized.shape[0]
        found['boxes'] = found['boxes'] * np.float32([*factor, *factor])
    return found


def new_size(about: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    """Return width and height of the image that the network's test would see."""
    if scale := about['scale']:
        if about['keep_ratio']:
            factor = min(
                max(scale) / max(width, height), min(scale) / min(width, height)
            )
            width, height = int(width * factor + 0.5), int(height * factor + 0.5)
        else:
            width, height = scale
    multiple = about['multiple']
    sides = (-(-side // multiple) * multiple for side in (width, height))
    return tuple(max(side, about['least_side']) for side in sides)


def detected(
    found: dict[str, np.ndarray], about: dict[str, Any], image: np.ndarray, score: float
) -> tuple[dict[str, Any], np.ndarray]:
    """Return what a JSON file says of the objects, and a picture of them."""
    result = dict(
        labels=found['labels'].tolist(),
        scores=found['scores'].tolist(),
        bboxes=found['boxes'].tolist(),
    )
    picture, masks = image.copy(), []
    for i in range(len(found['boxes'])):
        box, label = found['boxes'][i], int(found['labels'][i])
        colour = colour_of(about, label)
        mask = None
        if 'masks' in found:
            mask = paste_mask(found['masks'][i], box, *image.shape[:2])
            masks.append(run_lengths(mask))
        if found['scores'][i] < score:
            continue
        if mask is not None:
            picture[mask] = picture[mask] // 2 + np.uint8(colour) // 2
        x, y, right, bottom = (int(round(float(n))) for n in box)
        cv2.rectangle(picture, (x, y), (right, bottom), colour, 2)
        text = f'{name_of(about, label)} {found["scores"][i]:.2f}'
        cv2.putText(picture, text, (x, y + 12), cv2.FONT_HERSHEY_PLAIN, 1, colour)
    return result | (dict(masks=masks) if 'masks' in found else {}), picture


def paste_mask(
    mask: np.ndarray, box: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Put a mask ``[28, 28]`` where its box is: ``[H, W]``, bool."""
    left, top, right, bottom = box
    out = np.zeros((height, width), bool)
    x = np.arange(max(int(left) - 1, 0), min(int(np.ceil(right)) + 1, width))
    y = np.arange(max(int(top) - 1, 0), min(int(np.ceil(bottom)) + 1, height))
    if right <= left or bottom <= top or not len(x) or not len(y):
        return out
    rows, cols = mask.shape
    down = between((y + 0.5 - top) / (bottom - top) * rows - 0.5, rows)
    across = between((x + 0.5 - left) / (right - left) * cols - 0.5, cols)
    pasted = down @ mask @ across.T
    out[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = pasted >= 0.5
    return out


def between(places: np.ndarray, count: int) -> np.ndarray:
    """Return the weights of linear interpolation at places ``[N]``: ``[N, count]``."""
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count)))


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as COCO's uncompressed run lengths, column by column."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return dict(size=list(mask.shape), counts=[0, *counts] if flat[0] else counts)


def segmented(
    found: dict[str, np.ndarray],
    about: dict[str, Any],
    image: np.ndarray,
    path: Path,
    out: Path,
) -> tuple[dict[str, Any], np.ndarray]:
    """Write the label map; return what the JSON file says of it, and a picture."""
    labels = found['labels']
    kind = np.uint8 if labels.max() < 256 else np.uint16
    write(out / 'pred' / f'{path.stem}.png', labels.astype(kind))
    count = labels.max() + 1
    colours = np.uint8([colour_of(about, label) for label in range(count)])
    share = np.bincount(labels.ravel(), minlength=count) / labels.size
    order = [int(i) for i in np.argsort(-share, kind='stable') if share[i]]
    result = dict(
        image=str(path),
        label_map=f'pred/{path.stem}.png',
        share={name_of(about, i): round(float(share[i]), 6) for i in order},
    )
    return result, image // 2 + colours[labels] // 2


def name_of(about: dict[str, Any], label: int) -> str:
    """Return the name of a class."""
    classes = about['classes']
    return classes[label] if label < len(classes) else f'class {label}'


def colour_of(about: dict[str, Any], label: int) -> tuple[int, ...]:
    """Return the colour of a class, blue first."""
    if label < len(about['palette']):
        return tuple(about['palette'][label][::-1])
    return tuple(np.random.default_rng(label).integers(64, 256, 3).tolist())


def write(path: Path, image: np.ndarray) -> None:
    """Write an image into a folder, which may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        fail(f'{path} cannot be written')


def fail(message: str) -> NoReturn:
    """End with one line on stderr."""
    sys.exit(f'run_onnx: {message}')


if __name__ == '__main__':
    main()
