"""`python -m benchmarks.loading`: how fast images are decoded and prepared, and how long training waits for them.

KolektorSDD at its full size, 1408x512: the real images where MFFPA_DATA names a folder with `KolektorSDD/`, else noise
of the same size and format, written for the occasion. An epoch's mix: all defective images and as many others. Prepared
is: decoded, resized, and for a defect the mask read, dilated and reduced with its weights, nothing kept in memory. The
waiting is what passes between asking the loader for a batch and having it, beside the whole of a step on the CPU: once
with every image decoded anew, once as `train` does it, with the images kept.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.dataset import DefectDataset
from mffpa_ext.data.images import read_mask, to_network_input
from mffpa_ext.data.loading import load_splits
from mffpa_ext.data.sampler import BalancedSampler
from mffpa_ext.data.targets import make_target
from mffpa_ext.models import create_model
from mffpa_ext.training.losses import LossWeights, loss_terms

FILE_SIZE = (1250, 500)  # of KolektorSDD's files, height x width, nearly all
WORKERS = (0, 2)


class Anew(Dataset):
    """A data set's items without anything that it keeps."""

    def __init__(self, dataset: DefectDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, object]:
        data, record = self.dataset, self.dataset.records[index]
        item = data[index] | {"image": data.decode(index)}
        if record.label and record.annotated:
            item["target"], item["weight"] = make_target(read_mask(record.mask), data.size, data.target_spec)
        return item


def write_stand_in(root: Path, folders: int = 9, parts: int = 8) -> None:
    """A folder in the layout of KolektorSDD."""
    rng = np.random.default_rng(0)
    for number in range(1, folders + 1):
        folder = root / f"kos{number:02d}"
        folder.mkdir(parents=True)
        for part in range(parts):
            mask = np.zeros(FILE_SIZE, np.uint8)
            if part == 0:
                mask[400:430, 100:300] = 255
            surface = rng.normal(120, 12, FILE_SIZE).clip(0, 255).astype(np.uint8)
            Image.fromarray(surface).save(folder / f"Part{part}.jpg", quality=95)
            Image.fromarray(mask).save(folder / f"Part{part}_label.bmp")


def batches(dataset: Dataset, labels: np.ndarray, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """Single images without end, in the order of a training."""
    loader = DataLoader(dataset, sampler=BalancedSampler(labels), num_workers=workers, persistent_workers=workers > 0)
    while True:
        yield from loader


def images_per_second(dataset: DefectDataset, workers: int, images: int) -> float:
    source = batches(Anew(dataset), dataset.labels, workers)
    for _ in range(2 * max(1, workers) + 2):  # what the processes have fetched ahead does not count
        next(source)
    started = time.perf_counter()
    for _ in range(images):
        next(source)
    return images / (time.perf_counter() - started)


def waiting(dataset: Dataset, labels: np.ndarray, channels: int, workers: int, steps: int) -> dict[str, float]:
    """Median seconds of a training step and of its wait for data, and the share of all waits in all steps."""
    model = create_model("mffpa", channels).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    source, waits, wholes = batches(dataset, labels, workers), [], []
    for step in range(1 + steps):
        started = time.perf_counter()
        batch = next(source)
        arrived = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        decision, mask_logits = model(to_network_input(batch["image"], torch.device("cpu")))
        loss_terms(decision, mask_logits, batch).total(LossWeights(0.5, 0.5)).backward()
        optimizer.step()
        if step:  # the first starts the processes
            waits.append(arrived - started)
            wholes.append(time.perf_counter() - started)
    return {"step_seconds": statistics.median(wholes), "wait_seconds": statistics.median(waits),
            "share": sum(waits) / sum(wholes)}


def measure(root: Path, steps: int, images: int) -> dict[str, object]:
    splits = load_splits(DataConfig("ksdd", str(root)), 0)
    data, results = splits.train, {}
    for workers in WORKERS:
        results[f"decoded anew, {workers} workers"] = {
            "images_per_second": images_per_second(data, workers, images),
            **waiting(Anew(data), data.labels, splits.channels, workers, steps)}
    results["kept in memory, 0 workers"] = waiting(data, data.labels, splits.channels, 0, steps)
    return {"shape": [splits.channels, *splits.image_size], "images": len(data), "results": results}


def table(results: dict[str, dict[str, float]]) -> list[str]:
    lines = [f"{'':28}{'images/s':>10}{'step':>12}{'wait':>12}{'share':>9}"]
    for name, row in results.items():
        rate = f"{row['images_per_second']:.1f}" if "images_per_second" in row else ""
        lines.append(f"{name:28}{rate:>10}{row['step_seconds'] * 1e3:>9.0f} ms{row['wait_seconds'] * 1e3:>9.1f} ms"
                     f"{row['share']:>8.2%}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="timed training steps of each kind (default 10)")
    parser.add_argument("--images", type=int, default=100, help="images that loading is timed with (default 100)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also store the figures in this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    real = Path(os.environ.get("MFFPA_DATA", "")) / "KolektorSDD"
    with tempfile.TemporaryDirectory() as temporary:
        source = "real images"
        if "MFFPA_DATA" not in os.environ or not real.is_dir():
            real, source = Path(temporary) / "KolektorSDD", "noise in its place: MFFPA_DATA names no KolektorSDD"
            write_stand_in(real)
        figures = {"source": source, "threads": options.threads, "torch": torch.__version__,
                   **measure(real, options.steps, options.images)}
    print(f"KolektorSDD at {'x'.join(map(str, figures['shape']))}, {source}; training on the CPU in fp32, batch 1, "
          f"{options.threads} threads")
    print("\n".join(table(figures["results"])))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
