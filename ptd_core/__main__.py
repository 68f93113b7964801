"""python -m ptd_core PARAMETERS.yaml [name=value ...]: a chapter's run without Jupyter.

torchrun --nproc-per-node=N -m ptd_core PARAMETERS.yaml [name=value ...]: the same run on N devices.
"""

import argparse
import signal
import sys

from ptd_core.errors import PTDError
from ptd_core.machine.ranks import Ranks
from ptd_core.progress import say
from ptd_core.recipe import Recipe
from ptd_core.run import execute, run_worker


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core", description=__doc__)
    parser.add_argument("parameters", help="YAML file with name: value lines, such as parameters/ptd_aug.yaml")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="parameters that replace the file's")
    options = parser.parse_args(arguments)
    try:
        recipe = Recipe.from_yaml(options.parameters, options.overrides)
        with Ranks.joined(recipe.device) as ranks:
            if not ranks.writes:
                run_worker(recipe, ranks)
                return 0
            done = execute(recipe, ranks=ranks)
            results, folder = done.record.results, done.folder
            del done  # its trainer must not outlive the processes' group
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # the run has printed where it resumes
    say(f"test accuracy {results.test_accuracy:.2f} % (last epoch), best on test {results.best_on_test:.2f} %")
    say(f"records, figures and checkpoints: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
