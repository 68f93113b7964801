"""What the commands that look at finished runs share: how runs are named, and where tables and pictures go."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from matplotlib.figure import Figure

from ptd_core.errors import PTDError
from ptd_core.progress import say
from ptd_core.records.files import make_folder
from ptd_core.views.style import save_figure


def folders_and_settings(texts: list[str]) -> tuple[list[Path], list[str]]:
    """Runs' folders, each once, and name=value texts; what is there is a folder, whatever its name."""
    settings = [text for text in texts if "=" in text and not os.path.exists(text)]
    once = {os.path.realpath(text): Path(text) for text in texts if text not in settings}
    return list(once.values()), settings


def show(rows_of: Callable[[], list], kind: ModuleType, draw: Callable[[list], Figure], to: Path | None) -> int:
    """Print the rows as a table, and write them with their picture into the folder `to`; the exit status.

    kind: the module of the rows, with FILE, `write` and `markdown`. What is wrong is one line on stderr.
    """
    try:
        if to:  # before anything is computed
            make_folder(to)
        rows = rows_of()
        if to:
            kind.write(rows, to)
            save_figure(draw(rows), (to / kind.FILE).with_suffix(".png"))
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    say(kind.markdown(rows))
    if to:
        say(f"table and picture: {to}")
    return 0
