"""Evaluates detections of a COCO set on the first 1 … 4 of its processes in turn: run by torchrun.

Each world has a process group of its own. Every rank writes one line of JSON for each world:
`[world size, scores]`; rank 0 saves the detections as `results<world size>.json`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from datamodules import ShardDataset, ShardLoader
from datamodules.evaluation import DetectionEvaluator
from tests.kit.datasets.coco_sets import predictions_of

WORLDS = (1, 2, 3, 4)


def main(folder: Path) -> None:
    """Evaluate `folder`'s dataset in every world this process is in."""
    document, results = json.loads((folder / "coco.json").read_text())
    rank = int(os.environ["RANK"])
    with (folder / f"rank{rank}").open("w") as log:
        for world_size in WORLDS[rank:]:
            group = (folder / f"group{world_size}").as_uri()
            dist.init_process_group("gloo", init_method=group, rank=rank, world_size=world_size)
            dataset = ShardDataset(str(folder / "coco"), "val", shuffle=False)
            evaluator = DetectionEvaluator(dataset.num_classes)
            for batch in ShardLoader(dataset, batch_size=1):
                ids = [target["truth"].image_id for target in batch.targets]
                found = predictions_of(results, document, ids)
                evaluator.update(batch.sample_ids, found, batch.targets)
            evaluator.save(folder / f"results{world_size}.json", num_samples=dataset.num_samples)
            scores = evaluator.compute(dataset.num_samples)
            log.write(json.dumps([world_size, asdict(scores)]) + "\n")
            dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
