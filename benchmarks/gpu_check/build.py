"""`python -m benchmarks.gpu_check.build FOLDER`: the compiled library, with CUDA kernels for this machine's GPU alone.

It is put into FOLDER/package/mffpa_ext, beside links to the Python files, so that neither the checkout's own library
nor an installed one is replaced: PYTHONPATH=FOLDER/package PYTHONSAFEPATH=1 runs on it. Compiling goes by the rules of
`pip install .` (python/build_plan.py, build_ninja.py), only what has changed, and needs neither pip nor setuptools.
Without a GPU the kernels are compiled for `ARCHITECTURE`, to see that they do. FOLDER/built.json holds the facts
of the build, once it has one.
"""

import os
import shutil
import sys
from pathlib import Path

from benchmarks.json_files import write_json

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = "9.0"  # without a GPU, and where TORCH_CUDA_ARCH_LIST names none


def link_package(package: Path, library: Path) -> None:
    """Python files as links into the checkout; the library as a copy, since the next build writes to the same file."""
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for source in (ROOT / "mffpa_ext").iterdir():
        if source.suffix == ".py" or (source / "__init__.py").is_file():
            (package / source.name).symlink_to(source)
    shutil.copy(library, package / library.name)


def main(folder: Path, architecture: str) -> None:
    sys.path.insert(0, str(ROOT / "python"))
    from build_facts import collect_facts
    from build_ninja import build_library
    from build_plan import find_torch, make_plan

    environment = {"TORCH_CUDA_ARCH_LIST": ARCHITECTURE, **os.environ}
    if architecture:
        environment["TORCH_CUDA_ARCH_LIST"] = architecture  # whatever else is asked for takes a multiple of the time
    if find_torch().cuda is None:
        environment.setdefault("MFFPA_CUDA", "1")  # a CPU build of torch: to see that the kernels compile and link
    plan = make_plan(ROOT, environment)
    print("\n".join(plan.describe()), flush=True)
    if not plan.compiled:
        raise SystemExit(f"no kernels: {plan.reason}")
    facts = collect_facts(ROOT, plan)
    link_package(folder / "package" / "mffpa_ext", build_library(ROOT, folder / "kernels", plan, facts))
    write_json(folder / "built.json", facts)
    if not plan.cuda.enabled:
        raise SystemExit(f"the library has no CUDA kernels: {plan.cuda.reason}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "")
