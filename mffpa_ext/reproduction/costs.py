"""Table 9: parameters, operations and speed of the four networks, and their ratios to the baseline."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mffpa_ext import __version__
from mffpa_ext.evaluation.timing import WARM_UP, summarize, time_passes
from mffpa_ext.files import write_json, write_text
from mffpa_ext.inference import Predictor
from mffpa_ext.models import complexity, create_model
from mffpa_ext.reproduction.markdown import NOTHING, text_table
from mffpa_ext.reproduction.tables import TABLE_9, TABLE_9_SIZE

_ROUNDS = 10


def measure(size: tuple[int, int], images: int, precision: str, device: str, command: str) -> dict[str, Any]:
    """Table 9 as primitives. size: H×W of RGB images. images: single-image passes of each network (Eq. 8 has 100).

    The networks take turns, so that whatever else the machine does meets them alike. Their weights are random: neither
    operations nor time depend on them. Raises ValueError for a size that a network cannot take.
    """
    models = {row.model: create_model(row.model) for row in TABLE_9 if row.model}
    counted = {name: complexity(model, 3, *size) for name, model in models.items()}
    predictors = {name: Predictor(model, precision, device) for name, model in models.items()}
    pixels = torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def passes(predictor: Predictor, count: int) -> list[float]:
        return time_passes(predictor, lambda step: predictor.prepare(pixels[None]), predictor.run, count)

    times: dict[str, list[float]] = {name: [] for name in models}
    for predictor in predictors.values():
        passes(predictor, WARM_UP)
    with tqdm(total=images * len(models), desc="inference time", unit="img", disable=None, leave=False) as bar:
        for turn in range(_ROUNDS):
            count = images * (turn + 1) // _ROUNDS - images * turn // _ROUNDS
            for name, predictor in predictors.items():
                times[name] += passes(predictor, count)
                bar.update(count)
    timings = {name: summarize(predictors[name], times[name], "model") for name in models}
    rows = []
    for row in TABLE_9:
        figures = {"paper": {"parameters": row.parameters, "macs": row.macs, "fps": row.fps}, "ours": None}
        if row.model:
            cost = counted[row.model]
            figures["ours"] = {"parameters": cost.parameters, "macs": cost.macs, "fps": timings[row.model].fps}
        baseline = rows[0] if rows else figures
        ratios = {who: {key: value / baseline[who][key] for key, value in values.items()} if values else None
                  for who, values in figures.items()}
        timing = asdict(timings[row.model]) if row.model else None
        rows.append({"title": row.title, "model": row.model, **figures, "ratio_to_baseline": ratios, "timing": timing})
    return {
        "table": 9, "title": "Parameters, operations and speed", "image_size": list(size), "channels": 3,
        "rows": rows,
        "versions": {"mffpa_ext": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": platform.platform(), "written": datetime.now(UTC).isoformat(timespec="seconds"), "command": command,
    }


def render(results: dict[str, Any]) -> str:
    """As a Markdown table: each figure of the paper and ours, and both ratios to the baseline."""
    height, width = results["image_size"]
    timing = results["rows"][0]["timing"]
    lines = [
        "# Table 9: parameters, operations and speed", "",
        f"Images of 3x{height}x{width}. MACs: multiply-accumulates of convolutions and linear layers, which the paper "
        f"calls FLOPs. FPS (Eq. 8): {timing['images']} single images, model alone, {timing['precision']}, "
        f"{timing['device']}, {timing['threads']} threads, all networks on the operators of this package; the paper's "
        f"on a GTX 1080 Ti. In brackets: ratio to the baseline.", "",
    ]
    if (height, width) != TABLE_9_SIZE:
        lines += [f"**Not the published size**, which is 3x{TABLE_9_SIZE[0]}x{TABLE_9_SIZE[1]}.", ""]
    rows = []
    for row in results["rows"]:
        ratio = row["ratio_to_baseline"]
        cells = [row["title"]]
        for key, unit in (("parameters", 1e6), ("macs", 1e9), ("fps", 1)):
            cells.append(f"{row['paper'][key]:.2f} ({ratio['paper'][key]:.3f})")
            cells.append(f"{row['ours'][key] / unit:.2f} ({ratio['ours'][key]:.3f})" if row["ours"] else NOTHING)
        rows.append(cells)
    header = ["network", "params/M, paper", "ours", "MACs/G, paper", "ours", "FPS, paper", "ours"]
    return "\n".join([*lines, *text_table(header, rows)]) + "\n"


def write(results: dict[str, Any], folder: Path) -> None:
    """results.json and table.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    write_text(folder / "table.md", render(results))
