"""Measures how COCO JSON of 537 MB is planned, and what other ways of reading it take.

    python benchmarks/coco.py           # makes .data/coco (100,000 images, 1,000,000 objects) once
    python benchmarks/coco.py --toy     # a smoke test: 200 images; writes no results

Each measurement is a process of its own on one core: `plan` is all that a conversion does before it
writes, `index` the part that finds annotations of pictures. `ijson` (if it is installed) reads the
same three ids of each annotation, `json` loads the file as a whole. Writes `coco.json` into the
results folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import ROOT, Job, circumstances, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "annotations/instances_train2017.json"
CATEGORIES = 80
OBJECTS = 10
"""Of a picture, on average."""
CORNERS = 24
"""Of a polygon; COCO's have 23 on average."""
FIGURES = ("seconds", "cpu_s", "peak_mb", "anonymous_mb")


def make_coco(folder: Path, images: int) -> Path:
    """Write a dataset of empty pictures, unless it is there."""
    path = folder / NAME
    if path.exists():
        return folder
    for part in ("annotations", "train2017"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    random = Random(0)
    with path.with_suffix(".part").open("w") as file:
        file.write('{"info":{},"licenses":[],"images":[')
        for number in range(images):
            (folder / f"train2017/{number:012d}.jpg").touch()
            file.write(("," if number else "") + json.dumps(_image(number)))
        file.write('],"annotations":[')
        for number in range(images * OBJECTS):
            file.write(("," if number else "") + json.dumps(_annotation(number, images, random)))
        named = [{"id": n, "name": f"class {n:03d}"} for n in range(1, CATEGORIES + 1)]
        file.write(f'],"categories":{json.dumps(named)}}}')
    path.with_suffix(".part").rename(path)
    return folder


def _image(number: int) -> dict[str, Any]:
    name = f"{number:012d}.jpg"
    return {
        "license": 4,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": 427,
        "width": 640,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
        "id": number,
    }


def _annotation(number: int, images: int, random: Random) -> dict[str, Any]:
    return {
        "segmentation": [[round(random.random() * 400, 2) for _ in range(2 * CORNERS)]],
        "area": round(random.random() * 5000, 4),
        "iscrowd": 0,
        "image_id": random.randrange(images),
        "bbox": [1.5, 2.25, 30.1, 40.7],
        "category_id": random.randrange(1, CATEGORIES + 1),
        "id": number,
    }


# In a process of its own --------------------------------------------------------------------------


def _plan(folder: Path) -> int:
    from shard_tool import ConvertOptions
    from shard_tool.convert.run import prepare

    with tempfile.TemporaryDirectory() as dest:
        plan = prepare(ConvertOptions(source=str(folder), dest=dest, workers=1))
    return sum(its.num_boxes for its in plan.surveyed.evidence.values())


def _index(folder: Path) -> int:
    from shard_tool.sources.coco.find import find_json
    from shard_tool.sources.files.listing import list_files

    (found,) = find_json(list_files(str(folder))).read
    found.check()
    return found.used.total()


def _ijson(folder: Path) -> int:
    import ijson  # type: ignore[import-not-found]

    with (folder / NAME).open("rb") as file:
        found = [
            (its["image_id"], its["category_id"], its["id"])
            for its in ijson.items(file, "annotations.item", use_float=True)
        ]
    return len(found)


def _json(folder: Path) -> int:
    with (folder / NAME).open("rb") as file:
        return len(json.load(file)["annotations"])


WAYS: dict[str, Callable[[Path], int]] = {
    "plan": _plan,
    "index": _index,
    "ijson": _ijson,
    "json": _json,
}


def measured(way: str, folder: Path) -> dict[str, Any]:
    """Seconds and memory of one way; `peak_mb` counts mapped pages of the file, too."""
    begun, before = time.perf_counter(), time.process_time()
    count = WAYS[way](folder)
    lines = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_s": time.process_time() - before,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "anonymous_mb": anonymous * 1024 / 1e6,
        "num_objects": count,
    }


def main() -> None:
    """Measure all ways in turns, and write the results."""
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measured(sys.argv[2], Path(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / ".data/coco")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    folder = make_coco(options.data, 200 if options.toy else 100_000)
    jobs = [
        Job(label=way, case="measure", contender=way, data=folder, module="benchmarks.coco")
        for way in WAYS
    ]
    rows = in_turns(jobs, 1 if options.toy else options.runs)
    result = {
        **circumstances(),
        "json_mb": (folder / NAME).stat().st_size / 1e6,
        "rows": {row.label: {"runs": row.runs, "errors": row.errors} for row in rows},
    }
    for row in rows:
        if row.runs:
            told = ", ".join(f"{name} {row.median(name):,.1f}" for name in FIGURES)
            print(f"{row.label}: {told}")
    if not options.toy:
        text = json.dumps(result, indent=1)
        (ROOT / "benchmarks/results/coco.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
