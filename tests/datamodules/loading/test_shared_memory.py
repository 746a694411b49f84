"""Segments of shared memory are used again, but never while somebody holds their batch."""

from __future__ import annotations

import gc
import os
import weakref
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning_fabric.utilities.data import _replace_dunder_methods
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from datamodules import ShardDataset, ShardLoader
from datamodules.loading import shared_memory
from datamodules.loading.shared_memory import SharedSegments
from shard_tool.errors import SampleError
from tests.kit.models.recorder import digest
from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from datamodules import Batch

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"  # the machine may have fewer cores
)


def of_random_size(image: Any, target: Any) -> tuple[Any, Any]:
    """Pictures of 8 x 8 to 127 x 127."""
    height, width = torch.randint(8, 128, (2,)).tolist()
    return v2.Resize((height, width), antialias=True)(image, target)


def loader(
    root: Path, transform: Callable[..., Any] = of_random_size, **options: Any
) -> ShardLoader:
    dataset = ShardDataset(str(root), transform=transform, seed=5)
    return ShardLoader(dataset, **{"batch_size": 3, "num_workers": 2, **options})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[SharedSegments]:
    """The segments of each pass, or of each set of persistent workers, in turn."""
    found: list[SharedSegments] = []

    def recorded(*options: Any) -> SharedSegments:
        found.append(SharedSegments(*options))
        return found[-1]

    monkeypatch.setattr("datamodules.loading.loader.SharedSegments", recorded)
    return found


@pytest.fixture(scope="module")
def expected(mini_dataset: Path) -> list[str]:
    """Digests of an epoch's batches, made in this process."""
    return [digest(batch) for batch in loader(mini_dataset, num_workers=0)]


def test_a_batch_that_is_kept_stays_as_it_is(
    mini_dataset: Path,
    expected: list[str],
    made: list[SharedSegments],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All batches of an epoch: more than there are segments, so the last have ordinary memory."""
    monkeypatch.setattr(shared_memory, "MAX_SEGMENTS", 2)
    assert len(expected) > 2 * 2
    found = loader(mini_dataset)
    batches = list(found)
    assert made[0].num_segments == made[0].num_taken == 2 * 2
    assert [digest(batch) for batch in batches] == expected
    own = {batch.pixels.untyped_storage().data_ptr() for batch in batches}
    assert len(own) == len(batches)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_released_segments_are_used_again(
    mini_dataset: Path, expected: list[str], made: list[SharedSegments], context: str
) -> None:
    found = loader(mini_dataset, multiprocessing_context=context, prefetch_factor=1)
    digests = []
    for batch in found:
        digests.append(digest(batch))
        del batch
    assert digests == expected
    assert 1 <= made[0].num_segments <= 2 * 3  # to each worker: waiting, taken, being packed
    assert made[0].num_taken == 0


@pytest.mark.slow
def test_persistent_workers_keep_their_segments(
    mini_dataset: Path, made: list[SharedSegments]
) -> None:
    found = loader(mini_dataset, persistent_workers=True, prefetch_factor=1)
    first = [digest(batch) for batch in found]
    count = made[0].num_segments
    assert first != [digest(batch) for batch in found]
    found.set_epoch(0)
    assert [digest(batch) for batch in found] == first
    assert len(made) == 1
    assert 0 < made[0].num_segments <= count + 2


@pytest.mark.slow
def test_any_view_keeps_the_segment(mini_dataset: Path, made: list[SharedSegments]) -> None:
    found = loader(mini_dataset, batch_size=1, prefetch_factor=1)
    kept, copies = [], []
    for number, batch in enumerate(found):
        if number < 10:
            kept.append(batch.images[0][:, 2:, 3:].unbind(0)[1])
            copies.append(kept[-1].clone())
    del batch
    gc.collect()
    assert all(torch.equal(view, copy) for view, copy in zip(kept, copies, strict=True))
    assert made[0].num_taken == 10
    kept.clear()
    assert made[0].num_taken == 0


@pytest.mark.slow
def test_a_forked_child_releases_its_copy_only(
    mini_dataset: Path, made: list[SharedSegments]
) -> None:
    batches = list(islice(loader(mini_dataset), 4))
    before = made[0].num_taken
    child = os.fork()
    if not child:
        batches.clear()
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert made[0].num_taken >= before >= 4


@pytest.mark.slow
def test_a_batch_in_a_forked_child_stays_as_it_is(
    mini_dataset: Path, made: list[SharedSegments]
) -> None:
    """Also after its parent releases the batch: both share the pages."""
    found = loader(mini_dataset, batch_size=1, prefetch_factor=1, persistent_workers=True)
    batches = iter(found)
    batch = next(batches)
    let_go, go_on = os.pipe()
    child = os.fork()
    if not child:
        before = digest(batch)
        os.read(let_go, 1)
        os._exit(0 if digest(batch) == before else 1)
    del batch
    for other in batches:  # many more than there are segments
        del other
    os.write(go_on, b"!")
    assert os.waitpid(child, 0)[1] == 0
    os.close(let_go)
    os.close(go_on)


@pytest.mark.slow
@pytest.mark.parametrize("is_recorded", [False, True], ids=["", "under-Lightning"])
def test_segments_are_unmapped_with_their_pass(
    mini_dataset: Path, monkeypatch: pytest.MonkeyPatch, *, is_recorded: bool
) -> None:
    """Also where Lightning keeps whatever is assigned to a loader: as it does while a data module
    makes one, and from then on if that raises."""
    with _replace_dunder_methods(DataLoader, "dataset") if is_recorded else nullcontext():
        check_that_what_a_pass_mapped_goes_with_it(mini_dataset, monkeypatch)


def check_that_what_a_pass_mapped_goes_with_it(
    mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: weakref.WeakSet[SharedSegments] = weakref.WeakSet()

    def recorded(*options: Any) -> SharedSegments:
        found = SharedSegments(*options)
        made.add(found)
        return found

    def holders() -> list[list[object]]:
        return [gc.get_referrers(one) for one in made]

    monkeypatch.setattr("datamodules.loading.loader.SharedSegments", recorded)
    found = loader(mini_dataset)
    for _ in range(2):
        kept = list(found)
        assert eventually(lambda: gc.collect() >= 0 and not made), holders()
        assert kept
    found = loader(mini_dataset, persistent_workers=True)
    kept = list(found)
    assert len(made) == 1
    del found, kept
    assert eventually(lambda: gc.collect() >= 0 and not made), holders()


@pytest.mark.slow
def test_idle_segments_are_kept_up_to_a_number(
    mini_dataset: Path, made: list[SharedSegments]
) -> None:
    found = loader(mini_dataset, batch_size=1, prefetch_factor=1, persistent_workers=True)
    kept = list(found)
    assert made[0].num_segments > 2 * 5
    kept.clear()
    gc.collect()
    assert made[0].num_segments == 2 * 3
    digests = [digest(batch) for batch in found]
    found.set_epoch(1)
    assert [digest(batch) for batch in found] == digests


def test_a_large_picture_among_small_ones_takes_no_memory_for_many(
    mini_dataset: Path, made: list[SharedSegments]
) -> None:
    def first_is_large(image: Any, target: Any) -> tuple[Any, Any]:
        size = 1000 if int(target["image_id"]) == first else 20
        return v2.functional.resize(image, [size, size]), target

    one = {"batch_size": 24, "num_workers": 1}
    first = int(next(iter(loader(mini_dataset, num_workers=0))).sample_ids[0])
    batch = next(iter(loader(mini_dataset, first_is_large, **one)))
    assert batch.sizes[:2].tolist() == [[1000, 1000], [20, 20]]
    (segment,) = made[0]._segments.values()
    assert len(segment) <= 2 * 3 * 1000 * 1000
    alone = next(iter(loader(mini_dataset, first_is_large, batch_size=24, num_workers=0)))
    assert alone.pixels.untyped_storage().nbytes() == alone.pixels.nbytes


def test_a_finaliser_is_not_traced_into_a_graph(
    mini_dataset: Path, made: list[SharedSegments]
) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    batches = list(islice(loader(mini_dataset), 3))
    before = made[0].num_taken

    def letting_go(x: torch.Tensor) -> torch.Tensor:
        batches.clear()
        return x + 1

    graph = make_fx(letting_go)(torch.ones(2))
    assert made[0].num_taken < before
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_function", "output"]


@pytest.mark.slow
def test_two_passes_at_once_have_segments_of_their_own(
    mini_dataset: Path, expected: list[str]
) -> None:
    found = loader(mini_dataset, resumable=False)
    pairs = [(digest(a), digest(b)) for a, b in zip(found, found, strict=True)]
    assert pairs == [(one, one) for one in expected]


@pytest.mark.slow
def test_batches_stay_valid_after_their_loader_is_gone(
    mini_dataset: Path, expected: list[str]
) -> None:
    batches = list(islice(loader(mini_dataset), 5))
    gc.collect()
    assert [digest(batch) for batch in batches] == expected[:5]


@pytest.mark.slow
def test_a_sample_that_fails_gives_its_segment_back(
    mini_dataset: Path, made: list[SharedSegments]
) -> None:
    def failing(image: Any, target: Any) -> Any:
        if int(target["image_id"]) == last:
            raise ValueError
        return image, target

    one = {"batch_size": 100, "num_workers": 1, "persistent_workers": True}
    (batch,) = loader(mini_dataset, **one)
    last = int(batch.sample_ids[-1])
    found = loader(mini_dataset, failing, **one)
    with pytest.raises(SampleError, match="ValueError"):
        next(iter(found))
    assert made[-1].num_taken == 0


def are_new(sizes: list[int], parent: SharedSegments) -> list[bool]:
    """Whether batches of these sizes, one after the other, came in a new segment."""
    segments, found = parent.of_worker(0), []
    for size in sizes:
        index, segment, is_new = segments.take(size)
        assert len(segment) >= size
        found.append(is_new)
        parent.received(0, index, segment if is_new else None, size)  # and released at once
    return found


def test_a_segment_serves_smaller_batches_but_not_far_smaller_ones() -> None:
    sizes = [9 << 20, 8 << 20, 9 << 20, 10 << 20, 3 << 20, 1 << 10, 1 << 10, 10 << 20]
    parent = SharedSegments(1, 4)
    assert are_new(sizes, parent) == [True, False, False, True, False, True, False, True]
    assert len(parent._segments) == 1


def test_an_unsent_segment_is_kept_only_if_the_parent_knows_it() -> None:
    parent = SharedSegments(1, 4)
    segments = parent.of_worker(0)
    memory = segments.memory()
    memory(100)
    memory(200)  # in place of the first
    memory.release()
    assert parent.num_taken == 0
    index, segment, is_new = segments.take(50)
    assert is_new
    parent.received(0, index, segment, 50)
    memory = segments.memory()
    memory(40)
    memory.release()
    assert not segments.take(30)[2]
    assert parent.num_taken == 1


@pytest.mark.slow
def test_sent_batches_arrive_as_batches_of_any_dtype(mini_dataset: Path) -> None:
    def of_half(image: Any, target: Any) -> Any:
        return v2.functional.resize(image, [16, 16]).to(torch.bfloat16), target

    batches: list[Batch] = list(loader(mini_dataset, of_half))
    assert {batch.pixels.dtype for batch in batches} == {torch.bfloat16}
    alone = [
        digest(b.with_pixels(b.pixels.float()))
        for b in loader(mini_dataset, of_half, num_workers=0)
    ]
    assert [digest(b.with_pixels(b.pixels.float())) for b in batches] == alone
