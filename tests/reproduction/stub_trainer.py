"""Takes the flags of `train`, keeps its promises about files and signals, and trains nothing.

Its metrics follow from its settings. STUB_SECONDS: of an epoch. STUB_FAIL: a flag such as --fold=1, with which it
fails. STUB_DIE: with which it kills itself in its first epoch. As a file it needs no torch, and starts in no time.
"""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

NOTE = "KSDD holds two items twice, byte for byte"


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in _joined(arguments) if "=" in argument)
    if "resume" in flags:
        folder = Path(flags["resume"])
        state = json.loads((folder / "last.pt").read_text())
    else:
        folder = Path(flags["output"])
        if folder.exists():
            print(f"error: --output {folder}: the folder is not empty", file=sys.stderr)
            return 2
        folder.mkdir(parents=True)
        config = {name.replace("-", "_"): _value(text) for name, text in flags.items()}
        (folder / "config.json").write_text(json.dumps(config))
        state = {"epoch": 0, "config": config}
    config = state["config"]
    given = [f"--{name.replace('_', '-')}={value}" for name, value in config.items()]
    if os.environ.get("STUB_DIE") in given and "resume" not in flags:
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("STUB_FAIL") in given:
        print("error: the images are damaged:\tcopy them again", file=sys.stderr)
        return 2
    try:
        while state["epoch"] < config["epochs"]:
            time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
            state["epoch"] += 1
            print(f"trained epoch {state['epoch']}", flush=True)
            _write(folder / "last.pt", json.dumps(state))
            _write(folder / "best.pt", json.dumps(state))
            _write(folder / "log.csv", "epoch\n" + "".join(f"{epoch + 1}\n" for epoch in range(state["epoch"])))
    except KeyboardInterrupt:
        print(f"interrupted; to continue: --resume {folder}", file=sys.stderr)
        return 130
    ap = expected_ap(config)
    metrics = {"ap": ap, "auc": ap / 2, "mask_ap": ap / 4, "fps": 10.0, "official": True, "epoch": state["epoch"],
               "notes": [NOTE, f"this is fold {config.get('fold')}"]}
    _write(folder / "metrics.json", json.dumps(metrics))
    return 0


def expected_ap(config: dict) -> float:
    """Distinct for every N, fold or class, and seed."""
    masks = 1000 if config["num_segmented"] == "all" else config["num_segmented"]
    return 0.5 + masks / 10000 + (config.get("fold", 0) + config.get("dagm_class", 0)) / 100 + config["seed"] / 1000


def _joined(arguments: list[str]) -> list[str]:
    """`--resume RUN` as `--resume=RUN`."""
    joined = []
    for argument in arguments:
        if argument.startswith("--"):
            joined.append(argument)
        else:
            joined[-1] += f"={argument}"
    return joined


def _value(text: str) -> object:
    height, _, width = text.partition("x")
    if height.isdigit() and width.isdigit():
        return [int(height), int(width)]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    child = Path(__file__).parents[2] / "mffpa_ext" / "reproduction" / "child.py"
    spec = importlib.util.spec_from_file_location("child", child)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.end_with_parent()
    sys.exit(main(sys.argv[1:]))
