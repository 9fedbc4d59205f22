"""Run an exported ONNX file on images without PyTorch.

    python tools/run_onnx.py IMAGE_OR_FOLDER --model OUT.onnx --out DIR

This file can be copied to a server: it needs only onnxruntime, numpy and OpenCV. Its
output is that of tools/demo.py: pictures in DIR/vis and one JSON file per image in
DIR/preds. For a detector the JSON file holds labels, scores, boxes and masks, as
uncompressed COCO RLE; for a segmentor the fraction of the image covered by each class,
and the label map is beside it as NAME.png.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import onnxruntime

IMAGE = 'images'  # name of the input
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp')


def main() -> None:
    """Run the network on the images one by one and write the results."""
    args = parse_args()
    paths = list_images(args.images)
    if args.out.exists() and any(args.out.iterdir()):
        fail(f'{args.out} holds something already: name another folder by --out')
    session, about = open_model(args.model)
    read = 0
    for path in paths:
        image = cv2.imread(str(path))
        if image is None:
            print(f'left out, cannot be read: {path}')
            continue
        read += 1
        found = run(session, about, image)
        if about['task'] == 'segment':
            result, picture = describe_labels(found, about, image, path, args.out)
        else:
            result, picture = describe_objects(found, about, image, args.score)
        write(args.out / 'vis' / f'{path.stem}.jpg', picture)
        (args.out / 'preds').mkdir(exist_ok=True)
        text = json.dumps(result, indent=1)
        (args.out / 'preds' / f'{path.stem}.json').write_text(text)
    if not read:
        fail(f'{args.images} holds no image that can be read')
    print(f'{read} of {len(paths)} images: {args.out}')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('images', metavar='IMAGE_OR_FOLDER', type=Path, help='subfolders are not read')
    add('--model', metavar='OUT.onnx', type=Path, required=True)
    add('--out', type=Path, default=Path('demo'), help='folder (default: demo)')
    add('--score', type=float, default=0.3, help='least score drawn (default: 0.3)')
    return parser.parse_args()


def list_images(path: Path) -> list[Path]:
    """Return the path of an image, or of the images in a folder."""
    if not path.exists():
        fail(f'{path} is missing')
    if not path.is_dir():
        return [path]
    paths = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
    paths.sort(key=lambda path: path.stem)
    if not paths:
        fail(f'{path} holds no image ({", ".join(SUFFIXES)})')
    for first, second in zip(paths, paths[1:]):
        if first.stem == second.stem:
            fail(f'{second} and {first} would write the same results: rename one')
    return paths


def open_model(path: Path) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """Load an ONNX file and its metadata."""
    if not path.is_file():
        fail(f'{path} is missing')
    try:
        session = onnxruntime.InferenceSession(
            path, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # onnxruntime raises many types
        fail(f'{path} cannot be loaded: {str(error).splitlines()[0]}')
    meta = session.get_modelmeta().custom_metadata_map
    if 'crossformer_mm' not in meta:
        fail(f'{path} was not made by export_onnx.py')
    return session, json.loads(meta['crossformer_mm'])


def run(
    session: onnxruntime.InferenceSession, about: dict[str, Any], image: np.ndarray
) -> dict[str, np.ndarray]:
    """Resize an image ``[H, W, 3]`` as in the config's test, and run the network.

    Returns:
        dict: The outputs, with boxes and labels in pixels of the original image.
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
    """Return the width and height of an image after the config's test resize."""
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


def describe_objects(
    found: dict[str, np.ndarray], about: dict[str, Any], image: np.ndarray, score: float
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the content of the JSON file of the objects, and a picture of them."""
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
    """Resize a mask ``[28, 28]`` to its box in the image: ``[H, W]``, bool."""
    left, top, right, bottom = box
    out = np.zeros((height, width), bool)
    x = np.arange(max(int(left) - 1, 0), min(int(np.ceil(right)) + 1, width))
    y = np.arange(max(int(top) - 1, 0), min(int(np.ceil(bottom)) + 1, height))
    if right <= left or bottom <= top or not len(x) or not len(y):
        return out
    rows, cols = mask.shape
    down = interpolation_weights((y + 0.5 - top) / (bottom - top) * rows - 0.5, rows)
    across = interpolation_weights((x + 0.5 - left) / (right - left) * cols - 0.5, cols)
    pasted = down @ mask @ across.T
    out[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = pasted >= 0.5
    return out


def interpolation_weights(places: np.ndarray, count: int) -> np.ndarray:
    """Return the weights of linear interpolation at places ``[N]``: ``[N, count]``."""
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count)))


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as uncompressed COCO RLE, column by column."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return dict(size=list(mask.shape), counts=[0, *counts] if flat[0] else counts)


def describe_labels(
    found: dict[str, np.ndarray],
    about: dict[str, Any],
    image: np.ndarray,
    path: Path,
    out: Path,
) -> tuple[dict[str, Any], np.ndarray]:
    """Write the label map; return the content of the JSON file and a picture."""
    labels = found['labels']
    kind = np.uint8 if labels.max() < 256 else np.uint16
    write(out / 'preds' / f'{path.stem}.png', labels.astype(kind))
    count = labels.max() + 1
    colours = np.uint8([colour_of(about, label) for label in range(count)])
    share = np.bincount(labels.ravel(), minlength=count) / labels.size
    order = [int(i) for i in np.argsort(-share, kind='stable') if share[i]]
    result = dict(
        image=str(path),
        label_map=f'preds/{path.stem}.png',
        share={name_of(about, i): round(float(share[i]), 6) for i in order},
    )
    return result, image // 2 + colours[labels] // 2


def name_of(about: dict[str, Any], label: int) -> str:
    """Return the name of a class."""
    classes = about['classes']
    return classes[label] if label < len(classes) else f'class {label}'


def colour_of(about: dict[str, Any], label: int) -> tuple[int, ...]:
    """Return the colour of a class in BGR order."""
    if label < len(about['palette']):
        return tuple(about['palette'][label][::-1])
    return tuple(np.random.default_rng(label).integers(64, 256, 3).tolist())


def write(path: Path, image: np.ndarray) -> None:
    """Write an image, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        fail(f'{path} cannot be written')


def fail(message: str) -> NoReturn:
    """Exit with a message; parts/output.py is not copied to the server."""
    sys.exit(f'run_onnx: {message}')


if __name__ == '__main__':
    main()
