"""Classification: a picture's labels, from lists or from objects, up to batches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules import ShardDataset, ShardLoader, VOCDataModule, presets
from datamodules.loading.annotated import VOC_LABELS, picture_labels
from datamodules.loading.tasks import SERVED, TASKS
from shard_tool.errors import OptionError, SampleError
from shard_tool.format.sample import VOC_CLASSES, Sample, SampleObject
from tests.kit.datasets.converted import converted, manifest_of, reworded
from tests.kit.datasets.foreign_tars import adopted
from tests.kit.datasets.samples import BOXES, PLACE, load, raw_of, refusal, sample_of
from tests.kit.datasets.stored import stored
from tests.kit.datasets.voc_tree import pictures, voc_tree, write
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    Run = Callable[..., tuple[str | int | None, str, str]]

CAT, DOG = VOC_LABELS["cat"], VOC_LABELS["dog"]


def with_objects(*objects: tuple[int, bool | None]) -> Sample:
    found = [SampleObject(name="", label=n, bbox=None, difficult=flag) for n, flag in objects]
    return replace(sample_of([]), objects=tuple(found))


def labels_of(data: Iterable[Any]) -> list[list[float]]:
    return [labels.tolist() for _, labels in data]


# The labels of one picture --------------------------------------------------------------------


def test_labels_by_objects_are_one_absent_or_only_difficult() -> None:
    sample = with_objects((CAT, False), (CAT, True), (DOG, True), (DOG, True), (1, True), (1, None))
    labels = picture_labels(sample, VOC_LABELS, place="a")
    assert labels.dtype.name == "float32"
    assert labels.shape == (20,)
    found = {name: labels[label - 1] for name, label in VOC_LABELS.items() if labels[label - 1]}
    assert found == {"cat": 1, "dog": -1, "aeroplane": 1}, "unknown difficulty is none"


def test_labels_by_lists_win_over_objects_and_change_their_numbers() -> None:
    """VOC's 1, 0 and -1 are 1, -1 and 0 here: what is absent is 0, as in a loss."""
    numbers = dict.fromkeys(VOC_CLASSES, -1) | {"cat": 1, "dog": 0}
    sample = replace(with_objects((1, False)), image_labels=numbers)
    labels = picture_labels(sample, VOC_LABELS, place="a")
    assert (labels[CAT - 1], labels[DOG - 1], labels[0], labels.sum()) == (1, -1, 0, 0)


def test_there_is_a_column_for_each_label_of_the_data() -> None:
    labels = picture_labels(with_objects((3, False)), {"a": 1, "c": 3, "e": 5}, place="a")
    assert labels.tolist() == [0, 0, 1, 0, 0]


def test_unknown_or_missing_labels_make_a_bad_sample() -> None:
    lacking = dict.fromkeys(VOC_CLASSES[2:], 0)
    sample = replace(sample_of([]), image_labels=lacking)
    expected = f"{PLACE}.json: image_labels have no aeroplane, bicycle"
    assert refusal(sample=sample, task="classification") == expected
    more = replace(sample_of([]), image_labels=dict.fromkeys((*VOC_CLASSES, "fox"), -1))
    assert "image_labels have 'fox', none of the 20 classes" in refusal(
        sample=more, task="classification"
    )
    hint = "convert or index the data again, so that its manifest has all classes"
    expected = f"{PLACE}.json: an object without a name has label 21, expected 1 … 20; {hint}"
    assert refusal(sample=with_objects((21, True)), task="classification") == expected


def test_samples_of_a_classification_set_agree_with_their_objects(
    mini_labels: Path, mini_dataset: Path
) -> None:
    options: dict[str, Any] = {"split": ["train", "val"], "shuffle": False}
    by_lists = labels_of(ShardDataset(str(mini_labels), **options))
    by_objects = labels_of(ShardDataset(str(mini_dataset), task="classification", **options))
    assert by_lists == by_objects
    assert {value for labels in by_lists for value in labels} == {-1, 0, 1}
    counts = [split["counts"]["pictures"] for split in manifest_of(mini_labels)["splits"].values()]
    assert sum(value == 1 for labels in by_lists for value in labels) == sum(
        sum(count.values()) for count in counts
    )


# Transforms -----------------------------------------------------------------------------------


def labels_given(*labels: int) -> Any:
    return with_objects(*[(label, False) for label in labels])


def load_labels(transform: Any = None) -> Any:
    return load(transform, labels_given(CAT, DOG), task="classification")


def test_a_transform_gets_an_image_and_labels() -> None:
    given = []

    def look(image: Any, target: Any) -> Any:
        given.append((type(image), type(target), target.dtype, tuple(target.shape)))
        return image, target

    expected = load_labels().target
    chains = [look, presets.classification_eval(32).then(look), v2.Compose([look])]
    for transform in chains:
        item = load_labels(transform)
        assert torch.equal(item.target, expected)
    assert set(given) == {(tv_tensors.Image, torch.Tensor, torch.float32, (20,))}


@pytest.mark.parametrize(
    "make",
    [
        lambda: presets.classification_train(32),
        lambda: v2.Compose([v2.RandomHorizontalFlip(1), presets.classification_train(32)]),
        lambda: presets.classification_train(32).then(v2.GaussianBlur(3)),
        lambda: v2.Compose([v2.RandomResizedCrop((32, 32)), v2.ColorJitter(0.5)]),
    ],
    ids=["recipe", "after another", "before another", "torchvision's"],
)
def test_chains_of_transforms_leave_labels_alone(make: Callable[[], Any]) -> None:
    item = load_labels(make())
    assert item.image.shape == (3, 32, 32)
    assert type(item.image) is type(item.target) is torch.Tensor
    assert torch.equal(item.target, load_labels().target)


def test_labels_may_be_smoothed_and_of_another_dtype() -> None:
    item = load_labels(lambda image, labels: (image, labels.double() * 0.9 + 0.05))
    assert item.target.dtype == torch.float32
    assert item.target[CAT - 1] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(lambda labels: labels[:3], "(3,)", id="fewer"),
        pytest.param(lambda labels: labels[None], "(1, 20)", id="another shape"),
        pytest.param(lambda labels: labels.argmax(), "()", id="a number"),
        pytest.param(lambda labels: labels.tolist(), "list", id="no tensor"),
    ],
)
def test_labels_of_another_shape_are_refused_by_key_and_transform(
    change: Callable[[Any], Any], found: str
) -> None:
    def change_labels(image: Any, labels: Any) -> Any:
        return image, change(labels)

    expected = f"{PLACE}: transform 'change_labels' returned labels {found}, expected (20,)"
    assert refusal(change_labels, sample=labels_given(1), task="classification") == expected
    after = presets.classification_eval(32).then(change_labels)
    expected = expected.replace("change_labels", "center_crop")
    assert refusal(after, sample=labels_given(1), task="classification") == expected


def test_a_sample_needs_no_mask_and_no_boxes() -> None:
    raw = raw_of(sample_of([]), class_png=b"not looked at")
    item = load(presets.classification_eval(32), raw=raw, task="classification")
    assert item.target.tolist() == [0] * 20


# Batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_stacked_pictures_and_labels(mini_labels: Path, num_workers: int) -> None:
    data = ShardDataset(str(mini_labels), "train", transform=presets.classification_train(32))
    loader = ShardLoader(data, batch_size=6, num_workers=num_workers)
    alone = {key: data.read(i)[1] for i in range(29) for key in [i]}
    seen = []
    for batch in loader:
        images, labels = batch
        assert batch.task == "classification"
        assert (images.dtype, images.shape[1:]) == (torch.uint8, (3, 32, 32))
        assert (labels.dtype, labels.shape) == (torch.float32, (len(images), 20))
        for sample_id, row in zip(batch.sample_ids.tolist(), labels, strict=True):
            assert torch.equal(row, alone[sample_id])
            seen.append(sample_id)
    assert sorted(seen) == list(range(29))


def test_collate_fn_is_refused_as_for_the_other_tasks(mini_labels: Path) -> None:
    with pytest.raises(OptionError) as caught:
        ShardLoader(ShardDataset(str(mini_labels)), collate_fn=list)
    problem = "is for generic samples; those for classification are packed into a Batch"
    assert str(caught.value) == f"collate_fn: {problem}"


# One set of shards, several tasks -------------------------------------------------------------


def test_order_and_cursor_do_not_depend_on_the_task(mini_masks: Path) -> None:
    made = [
        ShardDataset(str(mini_masks), transform=presets.resize(32), task=task)
        for task in (None, *TASKS)
    ]
    assert [data.task for data in made] == ["segmentation", *TASKS]
    assert len({data.fingerprint for data in made}) == 1
    loaders = [ShardLoader(data, batch_size=3) for data in made]
    ids = [[batch.sample_ids.tolist() for batch in loader] for loader in loaders]
    assert ids[0] == ids[1] == ids[2] == ids[3]
    running = iter(loaders[0])
    next(running)
    state = loaders[0].state_dict()
    loaders[3].load_state_dict(state)
    batch = next(iter(loaders[3]))
    assert batch.targets.shape == (3, 20)
    assert batch.sample_ids.tolist() == next(running).sample_ids.tolist()


def test_boxes_of_masks_and_of_labels_are_those_of_detection(
    mini_masks: Path, mini_labels: Path, mini_dataset: Path
) -> None:
    def boxes(root: Path) -> dict[str, Any]:
        data = ShardDataset(str(root), ["train", "val"], task="detection", shuffle=False)
        return {target["key"]: target["boxes"].tolist() for _, target in data}

    known = boxes(mini_dataset)
    assert boxes(mini_labels) == known
    found = boxes(mini_masks)
    assert len(found.keys() & known.keys()) > 5
    assert all(found[key] == known[key] for key in found.keys() & known.keys())


def test_boxes_of_an_action_set_are_those_of_its_objects_that_have_one(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", pictures(2))
    point = "<object><name>person</name><point><x>10</x><y>3</y></point></object>"
    box = (
        "<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
        "</bndbox></object>"
    )
    write(tree / "Annotations/000001.xml", f"<annotation>{point}{box}</annotation>".encode())
    write(tree / "ImageSets/Action/train.txt", b"000001\n")
    write(tree / "ImageSets/Action/jumping_train.txt", b"000001  1  1\n")
    converted(tree, tmp_path / "out", task="action")
    ((_, target),) = ShardDataset(str(tmp_path / "out"), task="detection")
    assert target["boxes"].tolist() == [[0, 0, 9, 9]]
    assert target["labels"].tolist() == [DOG]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("made_for", [*SERVED, "generic"])
def test_a_task_that_shards_cannot_serve_is_refused_with_the_way_out(
    tmp_path: Path, made_for: str, task: str
) -> None:
    root = stored(tmp_path / "voc", {"train": [2]})
    reworded(root, lambda document: document | {"task": made_for})
    if task in SERVED.get(made_for, ()):
        assert ShardDataset(str(root), task=task).task == task
        return
    with pytest.raises(OptionError) as caught:
        ShardDataset(str(root), task=task)
    problem = f"{root}: its samples are for {made_for}, and cannot serve task {task!r}; "
    served = " or ".join(map(repr, dict.fromkeys((made_for, *SERVED.get(made_for, ())))))
    made = "detection" if task == "instances" else task  # for which `convert` makes nothing
    hint = f"give task {served}, or convert the source with --task {made}"
    if made_for == "generic":
        hint = "where they hold what `convert` writes, adopt them with `shard-tool index --task`"
    assert str(caught.value) == problem + hint


def test_the_shards_own_task_can_always_be_given(tmp_path: Path) -> None:
    root = stored(tmp_path / "voc", {"train": [2]})
    for made_for in (*SERVED, "generic"):
        reworded(root, lambda document, task=made_for: document | {"task": task})
        given, default = (ShardDataset(str(root), task=task) for task in (made_for, None))
        assert (given.task, given.is_generic) == (default.task, default.is_generic)
    with pytest.raises(OptionError) as caught:
        ShardDataset(str(root), task="panoptic")
    problem = "'panoptic' is not one of detection, segmentation, classification, instances"
    assert str(caught.value) == f"task: {problem}"


def test_roots_made_for_several_tasks_can_serve_one(mini_masks: Path, mini_dataset: Path) -> None:
    roots = [str(mini_dataset), str(mini_masks)]
    hint = "give task 'detection' or 'classification' or 'instances', which both serve"
    with pytest.raises(OptionError, match=f"made for task 'segmentation', .*; {hint}$"):
        ShardDataset(roots)
    data = ShardDataset(roots, task="classification")
    sizes = [ShardDataset(root).num_samples for root in roots]
    assert data.num_samples == sum(sizes)
    with pytest.raises(OptionError, match=f"^{mini_dataset}: .* cannot serve task 'segmentation'"):
        ShardDataset(roots, task="segmentation")


def test_adopted_shards_of_other_classes_have_their_columns(
    mini_dataset: Path, tmp_path: Path
) -> None:
    adopted([mini_dataset / "train-*.tar"], tmp_path / "out", task="detection")
    reworded(
        tmp_path / "out",
        lambda document: document["classes"].append({"name": "last", "label": 30}),
    )
    data = ShardDataset(str(tmp_path / "out"), task="classification")
    assert {len(labels) for _, labels in data} == {30}
    assert VOCDataModule(str(tmp_path / "out"), task="classification").num_classes == 30


# VOCDataModule --------------------------------------------------------------------------------


class Classifier(LightningModule):
    """A linear layer over mean colours; columns of difficult classes count for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 20)
        self.seen: list[tuple[Any, ...]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        self.seen.append((images.dtype, tuple(images.shape[1:]), labels.dtype, labels.shape[1]))
        counts = labels >= 0
        logits = self.layer(images.mean((2, 3)))
        return binary_cross_entropy_with_logits(logits[counts], labels[counts])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.seen.append((images.dtype, tuple(images.shape[1:]), labels.dtype, labels.shape[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_a_classifier_trains_and_validates(mini_labels: Path, tmp_path: Path) -> None:
    data = VOCDataModule(str(mini_labels), batch_size=8, image_size=32, normalize=True)
    assert data.num_classes == 20
    model = Classifier()
    trainer(tmp_path, max_epochs=1, gradient_clip_val=1.0).fit(model, data)
    assert model.global_step == 4
    assert set(model.seen) == {(torch.float32, (3, 32, 32), torch.float32, 20)}
    assert len(model.seen) == 8


def test_the_module_streams_what_the_shards_were_made_for_unless_told(
    mini_labels: Path, mini_masks: Path, mini_dataset: Path
) -> None:
    def module(root: Path, task: str | None = None) -> tuple[Any, int]:
        data = VOCDataModule(str(root), batch_size=2, image_size=32, task=task)
        return next(iter(data.val_dataloader())).task, data.num_classes

    assert module(mini_labels) == module(mini_dataset, "classification") == ("classification", 20)
    assert module(mini_masks) == ("segmentation", 21)
    assert module(mini_labels, "detection") == module(mini_dataset) == ("detection", 21)
    with pytest.raises(
        OptionError, match="cannot serve task 'segmentation'; give task 'detection'"
    ):
        module(mini_dataset, "segmentation")


def test_the_module_converts_for_its_task(mini_archive: Path, tmp_path: Path) -> None:
    for task, made_for in ((None, "detection"), ("classification", "classification")):
        root = tmp_path / made_for
        data = VOCDataModule(str(root), source=str(mini_archive), task=task)
        data.prepare_data()
        assert manifest_of(root)["task"] == made_for


# On the command line --------------------------------------------------------------------------


def test_preview_names_the_classes_a_picture_shows(
    run_here: Run, mini_labels: Path, tmp_path: Path
) -> None:
    from datamodules.preview import named

    sheet = tmp_path / "sheet.png"
    status, out, _ = run_here("preview", mini_labels, sheet, "--samples", 2, "--epochs", 1)
    assert (status, sheet.exists()) == (0, True)
    assert out == f"{sheet}: 2 samples, stored and in 1 epochs of imagenet\n"
    grey = torch.full((3, 60, 90), 128, dtype=torch.uint8)
    assert torch.equal(named(grey, torch.zeros(20)), grey)
    for value, is_yellow in ((1.0, True), (-1.0, False)):
        labels = torch.zeros(20)
        labels[DOG - 1] = value
        red, green, blue = named(grey, labels, VOC_CLASSES)[:, :20].flatten(1).int()
        assert ((red > 150) & (blue < 60)).any(), "the name is written"
        assert bool(((green > 150) & (blue < 60)).any()) == is_yellow
        assert (red + green + blue == 0).any()


def test_bench_streams_classification(run_here: Run, mini_labels: Path) -> None:
    options = ("--workers", 0, "--batch-size", 8, "--image-size", 32, "--max-batches", 2)
    assert run_here("bench", mini_labels, *options)[0] == 0


def test_a_bad_sample_of_classification_is_named(mini_labels: Path) -> None:
    def wrong(image: Any, labels: Any) -> Any:
        return image, labels[:1]

    data = ShardDataset(str(mini_labels), transform=wrong)
    with pytest.raises(SampleError, match=r"sample '\d+_\d+': transform 'wrong' returned labels"):
        next(iter(data))


def test_boxes_are_no_part_of_what_a_recipe_draws_for_labels() -> None:
    """A crop for classification is drawn without looking at objects."""
    images = [
        load(presets.ssdlite(32), sample_of(boxes), task="classification").image
        for boxes in ([], BOXES)
    ]
    assert torch.equal(*images)
