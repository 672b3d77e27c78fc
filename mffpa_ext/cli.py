"""The console script `mffpa NAME ...`, the same as `python -m mffpa_ext.NAME ...`."""

from __future__ import annotations

import importlib

from mffpa_ext.command import run_command
from mffpa_ext.errors import UserError

COMMANDS = {
    "train": "train a network, evaluate it on the test images",
    "evaluate": "metrics and inference time of a checkpoint",
    "threshold": "the score from which on an image counts as defective",
    "predict": "score, decision and heat map of image files",
    "reproduce": "the paper's tables, each value beside the published one",
    "datasets": "compare a folder with a published data set, name every damaged or missing file",
    "summary": "parameters and operations of the networks",
}


def main() -> None:
    run_command(dispatch)


def dispatch(arguments: list[str]) -> int | None:
    """Runs a command; its exit code, None for 0."""
    listing = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: mffpa COMMAND [--help]\n\n{listing}")
        return None
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"mffpa {name}: expected one of {', '.join(COMMANDS)}")
    return importlib.import_module(f"mffpa_ext.{name}").main(rest)


if __name__ == "__main__":
    main()
