"""python -m ptd_core.reproduce DATA_DIR [--minutes M] [name=value ...]: the four published recipes, and the bench.

Trains baseline, ptd, ptd_aug and baseline_aug at full size on all of CIFAR-100, then measures the bench, each in a
process of its own. After M minutes it stops what runs, saved, and ends with status 75; the same command again goes on
from there. Records and figures stand under figures/.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from ptd_core.paths import PROJECT_ROOT

RECIPES = ("ptd_aug", "baseline_aug", "baseline", "ptd")
GO_ON = 75  # EX_TEMPFAIL of sysexits.h: try again
GRACE = 60  # seconds for a step and a checkpoint


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.reproduce", description=__doc__)
    parser.add_argument("data_dir", help="folder with CIFAR-100")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop and save after so many")
    parser.add_argument("--no-bench", action="store_true", help="train only")
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT, help="folder that receives figures/ and runs/")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="parameters that replace the files'")
    options = parser.parse_intermixed_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    settings = [f"data_dir={options.data_dir}", f"out_dir={options.out}", *options.overrides]
    jobs = [
        (options.out / "figures" / name / "run.json", ["ptd_core", f"parameters/{name}.yaml", *settings])
        for name in RECIPES
    ]
    if not options.no_bench:
        folder = options.out / "figures" / "bench" / "reproduction"
        jobs.append((folder / "bench.json", ["ptd_core.bench", "--to", str(folder), *options.overrides]))
    for result, module in jobs:
        if finished(result):
            print(f"{result.parent.name}: finished", flush=True)
            continue
        status = run_until([sys.executable, "-m", *module], end)
        if status:
            return status
    return 0


def finished(result: Path) -> bool:
    """Whether a job has left its whole result: run.json says so of a run; the bench writes its sections one by one."""
    return result.exists() and json.loads(result.read_text())["finished"]


def run_until(command: list[str], end: float) -> int:
    """Run a command, ask it to stop when the clock shows `end`; its exit status, GO_ON if it was stopped."""
    if time.monotonic() >= end:
        return GO_ON
    process = subprocess.Popen(command, cwd=PROJECT_ROOT)
    try:
        return process.wait(None if end == float("inf") else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait(GRACE)
        print("stopped and saved; the same command goes on", flush=True)
        return GO_ON
    finally:
        if process.poll() is None:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
