"""Plots and metrics from the output files of MMEngine and MMDetection."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import mmengine
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

TOOLS = Path(__file__).parents[2] / 'tools'
IMAGES = 9  # one more than fits into the picture


@pytest.fixture
def plot_run(monkeypatch: pytest.MonkeyPatch):
    """Return the tool as a module; a new process would import mmdet for seconds."""
    monkeypatch.syspath_prepend(TOOLS)
    import plot_run

    return plot_run


@pytest.fixture
def run_tool(plot_run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Return a function that runs the tool and returns its output."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', ['plot_run.py', *map(str, arguments)])
        plot_run.main()
        return capsys.readouterr().out

    return run


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a very small mini set."""
    out = tmp_path_factory.mktemp('data') / 'mini'
    command = [sys.executable, str(TOOLS / 'make_mini_coco.py'), str(out)]
    command += ['--train', '1', '--val', str(IMAGES), '--size', '64']
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    """Return a config that has only a test set."""
    path = tmp_path / 'config.py'
    path.write_text(f"""
default_scope = 'mmdet'
test_dataloader = dict(
    dataset=dict(
        type='CocoDataset',
        data_root='{data}/',
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=[dict(type='LoadImageFromFile')]))
""")
    return path


def write_run(work_dir: Path, masks: bool = True) -> None:
    """Write the output files of an epoch-based training and a test."""
    write_scalars(work_dir / '20250101_000000', [{'loss': 99.0, 'step': 10}])
    kinds = ('bbox', 'segm') if masks else ('bbox',)
    scalars = []
    for epoch in (1, 2):
        for step in (10 * epoch - 5, 10 * epoch):
            loss = {'loss': 2 / step, 'loss_cls': 1 / step, 'loss_mask': 1 / step}
            scalars.append({'lr': 0.1, 'epoch': epoch, **loss, 'step': step})
        metrics = {
            f'coco/{kind}_mAP{suffix}': 0.3 * epoch
            for kind in kinds
            for suffix in ('', '_50', '_75', '_s', '_m', '_l')
        }
        scalars.append({**metrics, 'step': epoch})
    write_scalars(work_dir / '20250102_000000', scalars)
    test = work_dir / '20250103_000000'
    (test / 'vis_data').mkdir(parents=True)
    (test / 'vis_data' / 'config.py').write_text("load_from = 'work/epoch_2.pth'\n")
    metrics.update({f'coco/{kind}_mAP_l': -1.0 for kind in kinds})
    (test / f'{test.name}.json').write_text(json.dumps(metrics))


def write_scalars(run: Path, records: list[dict]) -> None:
    """Write the scalars of a run, one record per line."""
    (run / 'vis_data').mkdir(parents=True, exist_ok=True)
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    (run / 'vis_data' / 'scalars.json').write_text(lines)


def write_predictions(path: Path, data: Path, masks: bool = True) -> None:
    """Write the ground truth as mmdet's DumpDetResults writes predictions."""
    coco = COCO(data / 'annotations' / 'instances_val2017.json')
    labels = {number: label for label, number in enumerate(coco.getCatIds())}
    results = []
    for number, image in coco.imgs.items():
        entries = coco.imgToAnns[number]
        boxes = torch.tensor([entry['bbox'] for entry in entries])
        boxes[:, 2:] += boxes[:, :2]
        found = {
            'bboxes': boxes,
            'scores': torch.linspace(0.95, 0.4, len(entries)),
            'labels': torch.tensor([labels[entry['category_id']] for entry in entries]),
        }
        if masks:
            found['masks'] = [coco.annToRLE(entry) for entry in entries]
        name = f'{data}/val2017/{image["file_name"]}'
        results.append({'img_id': number, 'img_path': name, 'pred_instances': found})
    mmengine.dump(results, path)


@pytest.fixture
def work_dir(data: Path, tmp_path: Path) -> Path:
    """Return a work folder with all inputs of the tool."""
    folder = tmp_path / 'work'
    write_run(folder)
    write_predictions(folder / 'predictions.pkl', data)
    return folder


def colours(path: Path) -> int:
    """Return the number of different colours in a picture."""
    return len(np.unique(cv2.imread(str(path)) @ np.array([1, 256, 256**2])))


def test_pictures_and_precision(run_tool, work_dir: Path, config: Path) -> None:
    printed = run_tool(work_dir, config)
    assert cv2.imread(str(work_dir / 'curves.png')).shape == (832, 1760, 3)
    # 8 of the 9 images fit, in 4 rows of squares
    height, width, _ = cv2.imread(str(work_dir / 'predictions.png')).shape
    assert width == 1760 and width < height < 1.2 * width
    assert colours(work_dir / 'curves.png') > 50
    assert colours(work_dir / 'predictions.png') > 5000
    assert not list(work_dir.glob('*.part'))
    parts = ('AP', 'AP50', 'AP75', 'AP small', 'AP medium')  # no large objects
    text = ', '.join(f'{part} 0.600' for part in parts)
    assert f'box       {text}\nmask      {text}\n' in printed
    for path in (
        work_dir / 'curves.png',
        work_dir / 'predictions.png',
        config,
        'work/epoch_2.pth',
    ):
        assert str(path) in printed


def test_boxes_only(run_tool, data: Path, tmp_path: Path, config: Path) -> None:
    work_dir = tmp_path / 'boxes'
    write_run(work_dir, masks=False)
    write_predictions(work_dir / 'predictions.pkl', data, masks=False)
    assert 'mask' not in run_tool(work_dir, config)
    assert colours(work_dir / 'predictions.png') > 5000


def test_newest_training_with_evaluations_at_iterations(
    work_dir: Path, plot_run
) -> None:
    training, evaluations = plot_run.read_training(work_dir)
    assert [record['step'] for record in training] == [5, 10, 15, 20]
    assert [record['step'] for record in evaluations] == [10, 20]


def test_resumed_training_is_drawn_from_its_start(work_dir: Path, plot_run) -> None:
    # It was killed at 40, resumed from the checkpoint at 20, and again from 30.
    write_scalars(work_dir / '20250102_000000', loss_records(*range(5, 41, 5)))
    write_resumed(
        work_dir / '20250104_000000', [*loss_records(25, 30), {'step': 3, 'm': 1}]
    )
    write_resumed(work_dir / '20250105_000000', [])  # already finished
    write_resumed(work_dir / '20250106_000000', loss_records(35, 40))
    training, evaluations = plot_run.read_training(work_dir)
    assert [record['step'] for record in training] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [record['loss'] for record in training[-2:]] == [2 / 35, 2 / 40]
    assert evaluations == [{'step': 30, 'm': 1}]


def loss_records(*steps: int) -> list[dict]:
    """Return the training records of these iterations."""
    return [{'loss': 2 / step, 'step': step} for step in steps]


def write_resumed(run: Path, records: list[dict]) -> None:
    """Write the output files of a resumed training."""
    write_scalars(run, records)
    (run / 'vis_data' / 'config.py').write_text('resume = True\n')


def test_training_not_yet_evaluated(plot_run) -> None:
    figure = plot_run.plot_curves([{'loss': 1.0, 'loss_cls': 1.0, 'step': 10}], [])
    losses, precision = figure.axes
    assert len(losses.lines) == 2
    assert not precision.lines


def test_low_scores_are_left_out(data: Path, tmp_path: Path, plot_run) -> None:
    write_predictions(tmp_path / 'p.pkl', data)
    for result in mmengine.load(tmp_path / 'p.pkl'):
        scores = result['pred_instances']['scores']
        shown = [i.score for i in plot_run.predicted_instances(result, 0.5)]
        assert shown == sorted(scores[scores >= 0.5].tolist())


def test_busiest_images_with_the_truth_as_prediction(
    work_dir: Path, config: Path, plot_run
) -> None:
    path = work_dir / 'predictions.pkl'
    examples, classes = plot_run.read_examples(path, config, 0.5)
    counts = [len(example.truth) for example in examples]
    assert len(examples) == 8
    assert counts == sorted(counts, reverse=True)
    assert len(classes) == 80
    for example in examples:
        for instance in example.prediction:
            assert any(
                instance.label == true.label
                and instance.box == true.box
                and (instance.mask == true.mask).all()
                for true in example.truth
            )


@pytest.mark.parametrize(
    ('missing', 'message'),
    [
        ('*/vis_data/scalars.json', 'work holds no training'),
        ('*/2*.json', 'work holds no test result'),
        ('predictions.pkl', 'holds no .*predictions.pkl: run first `mim test mmdet'),
        ('../config.py', 'config.py is missing'),
    ],
)
def test_missing_file_is_a_one_line_error_without_a_picture(
    run_tool, work_dir: Path, config: Path, missing: str, message: str
) -> None:
    for path in work_dir.glob(missing):
        path.unlink()
    with pytest.raises(SystemExit, match=f'^plot_run: .*{message}.*$') as error:
        run_tool(work_dir, config)
    assert '\n' not in error.value.code
    assert not list(work_dir.glob('*.png'))


def test_missing_test_outputs_are_listed_at_once(
    run_tool, work_dir: Path, config: Path
) -> None:
    (work_dir / 'predictions.pkl').unlink()
    (work_dir / '20250103_000000' / '20250103_000000.json').unlink()
    message = 'no .*predictions.pkl and no test result .*--out .*predictions.pkl`$'
    with pytest.raises(SystemExit, match=message):
        run_tool(work_dir, config)


def test_help_shows_the_required_test_command(run_tool, capsys) -> None:
    with pytest.raises(SystemExit, match='0'):
        run_tool('--help')
    text = capsys.readouterr().out
    assert 'mim test mmdet CONFIG' in text and '--out WORK_DIR/predictions.pkl' in text


def test_score_threshold(run_tool, work_dir: Path, config: Path) -> None:
    printed = run_tool(work_dir, config, '--score', '0.99')
    assert 'no object: the best score is 0.95, below 0.99' in printed
    drawn = colours(work_dir / 'predictions.png')
    assert 'no object' not in run_tool(work_dir, config, '--score', '0.4')
    assert colours(work_dir / 'predictions.png') != drawn


def test_image_without_predictions(plot_run, tmp_path: Path) -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    example = plot_run.Example(str(tmp_path / 'a.png'), [], [], 0.13)
    figure = plot_run.plot_predictions([example], ('kite',), 0.3)
    text = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert text == ['nothing ≥ 0.3, best 0.13']


def test_many_classes_have_many_colours(plot_run) -> None:
    from parts.run_plots import HUES, palette

    assert palette(7) == [hue.lower() for hue in HUES]
    for count in (0, 1, 8, 40, 150):
        assert len(set(palette(count))) == count


@pytest.mark.parametrize('sizes', [[(48, 64)] * 4, [(64, 48)] * 3, [(9, 90)] * 8])
def test_images_leave_no_large_gaps(sizes, plot_run) -> None:
    from parts.run_plots import image_grid

    figure, grid = image_grid(sizes, ('ground truth', 'prediction'), ['kite'])
    for axes, size in zip(grid[:, 0], sizes):
        axes.imshow(np.zeros(size))
    figure.draw_without_rendering()
    # They fill the figure except for titles, legend and thin margins.
    drawn = -(-len(sizes) // 2) * grid[0, 0].get_position().height
    assert (1 - drawn) * figure.get_figheight() < 1.5
    assert 4 * grid[0, 0].get_position().width > 0.95


def test_legends_cover_no_curve(plot_run) -> None:
    training = [
        {'loss': 1.0, 'step': step, **{f'loss_{i}': 0.1 for i in range(9)}}
        for step in (1, 2)
    ]
    evaluations = [{'coco/bbox_mAP': 0.01, 'coco/bbox_mAP_50': 0.02, 'step': 2}]
    figure = plot_run.plot_curves(training, evaluations)
    figure.draw_without_rendering()
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        assert legend.y1 < axes.get_window_extent().y0
        assert legend.y0 >= 0 and legend.x0 >= 0 and legend.x1 <= figure.bbox.x1


def test_missing_folder(tmp_path: Path, config: Path) -> None:
    """Check for one line on stderr and exit code 1."""
    command = [sys.executable, '-W', 'ignore', str(TOOLS / 'plot_run.py')]
    command += [str(tmp_path / 'nowhere'), str(config)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert result.stderr.startswith(f'plot_run: {tmp_path}/nowhere holds no training')
    assert result.stderr.count('\n') == 1


def test_missing_data_error(run_tool, work_dir: Path, config: Path, data: Path) -> None:
    config.write_text(config.read_text().replace(f'{data}/', '/not/here/'))
    with pytest.raises(SystemExit, match='test set of .*/not/here/annotations'):
        run_tool(work_dir, config)


def test_predictions_of_other_images(run_tool, work_dir: Path, config: Path) -> None:
    path = work_dir / 'predictions.pkl'
    results = mmengine.load(path)
    results[0]['img_path'] = 'elsewhere.jpg'
    mmengine.dump(results, path)
    with pytest.raises(SystemExit, match='made on other images'):
        run_tool(work_dir, config)
