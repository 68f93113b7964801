"""The house: few files at the top, short files, imports in one direction, and no extra needed by the library."""

import ast
import subprocess
import sys

import pytest

from ptd_core.paths import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "ptd_core"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up; a file may import from its own floor and from those below. A room's name stands for its files.
FLOORS = [
    {"errors", "paths", "schedule", "saliency"},
    {"tokens", "machine", "parameters"},
    {"token_drop"},
    {"model", "data", "records", "vits"},
    {"cost", "step", "rivals", "recipe"},
    {"evaluation"},
    {"trainer", "views"},
    {"load", "progress", "bench"},
    {"run"},
    {"chapter", "sweep", "compare", "evaluate", "reproduce", "publish", "site"},
    {"__main__", "__init__"},
]
TAKE_WHAT_THEY_USE = {"machine", "data", "records", "cost", "step", "rivals", "vits"}  # not the whole Recipe
EXTRAS = ["IPython", "ipywidgets", "jupytext", "papermill", "nbconvert", "nbformat", "jinja2", "ziamath", "distributed",
          "dask", "bokeh", "tensorboard", "pytest", "hypothesis", "playwright"]  # fmt: skip


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """The modules of this package that a file imports, anywhere in it, as rooms."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "ptd_core":
            names = [f"ptd_core.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("ptd_core.")}
    return rooms


def test_few_files_stand_at_the_top():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 20


@pytest.mark.parametrize("path", [p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".js", ".css", ".j2")], ids=str)
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 250


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    assert room(path) in floor, "a new room needs a floor"
    higher = {name for name in imported(path) - {room(path)} if floor[name] > floor[room(path)]}
    assert not higher, f"imports from above: {higher}"
    if room(path) in TAKE_WHAT_THEY_USE:
        assert "recipe" not in imported(path)


def test_rooms_do_not_import_each_other_in_a_circle():
    needs = {}
    for path in FILES:
        needs.setdefault(room(path), set()).update(imported(path) - {room(path)})
    while needs:
        ready = {name for name, others in needs.items() if not others & needs.keys()}
        assert ready, f"a circle among {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in ready}


def test_the_library_needs_no_extra():
    code = (
        "import sys\n"
        f"extras = {EXTRAS}\n"
        "sys.modules.update(dict.fromkeys(extras))\n"  # importing any of them is now an error
        "import ptd_core, ptd_core.__main__, ptd_core.compare, ptd_core.publish, ptd_core.reproduce\n"
        "import ptd_core.bench.__main__\n"
        "import timm\n"
        "print(timm.is_model('hybrid_vit'))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr


def test_chapters_need_the_extra_of_the_book_alone(tmp_path):
    """All of them: one that reads a sweep's plan needs no Dask; running a sweep through it says what it needs."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['distributed', 'dask', 'bokeh']))\n"
        "from ptd_core.chapter import evidence, notebook, space, widgets, your_vit\n"
        "evidence.answer('place')\n"
        "from ptd_core.sweep.__main__ import main\n"
        f"sys.exit(main(['parameters/sweeps/small_cells.yaml', 'out_dir={tmp_path}']))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("SweepError: sweeps need Dask, the extra `sweep` (pip install -e '.[sweep]'")
    assert "--processes N does without" in result.stderr
