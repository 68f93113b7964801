"""What the bench says: a table a section on the screen, one JSON, one figure."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from ptd_core.records.files import write_atomically
from ptd_core.records.markdown import markdown_table
from ptd_core.views.style import BLUE, GREY, ORANGE, new_figure, save_figure, styled

_COLUMNS = {  # heading and format, in the order of a table
    "images_per_second": ("images/s", "{:.1f}"),
    "median_seconds": ("median", "{:.4g} s"),
    "spread": ("spread", "±{:.1%}"),
    "first_call_seconds": ("first call", "{:.3g} s"),
    "keep": ("tokens kept", "{}"),
    "predicted": ("predicted from operations", "{:.3f}x"),
    "speedup": ("measured", "{:.3f}x"),
    "ours_faster_by": ("this project is faster by", "{:.2f}x"),
    "epoch_seconds": ("of an epoch", "{:.4g} s"),
    "share": ("share", "{:.1%}"),
    "microseconds_per_image": ("an image", "{:.1f} us"),
    "seconds_per_image": ("an image", "{:.4g} s"),
    "device_error": ("relative error here", "{:.2g}"),
    "cpu_error": ("on the CPU", "{:.2g}"),
    "peak_bytes": ("peak", "{:,} bytes"),
    "auto": ("auto", "{}"),
}


def section_table(name: str, rows: list[dict]) -> str:
    """A section as a Markdown table."""
    columns = [key for key in _COLUMNS if any(row.get(key) is not None for row in rows)]
    header = [name, *(_COLUMNS[key][0] for key in columns)]
    lines = []
    for row in rows:
        cells = ["" if row.get(key) is None else _COLUMNS[key][1].format(row[key]) for key in columns]
        lines.append([row["case"], *cells])
    return markdown_table(header, lines)


def write_report(folder: Path, report: dict) -> None:
    """bench.json and bench.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "bench.json", (json.dumps(report, indent=1) + "\n").encode())
    figure = bench_figure(report)
    if figure is not None:
        save_figure(figure, folder / "bench.png")


@styled
def bench_figure(report: dict) -> Figure | None:
    """Steps along the drop ratio, cost of lengths, and peers, as far as they were measured."""
    panels = [
        (name, draw) for name, draw in (("steps", _steps), ("lengths", _lengths), ("peers", _peers))
        if name in report["sections"]
    ]  # fmt: skip
    if not panels:
        return None
    stamp = report["stamp"]
    line = (
        f"{stamp['device']} · {report['path']} · batch {report['recipe']['batch_size']} · n = {report['rounds']} rounds"
    )
    figure = new_figure(
        f"{line} · torch {stamp['versions']['torch']} · commit {stamp['commit']}", (7.2, 3 * len(panels))
    )
    for axes, (name, draw) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels):
        draw(axes, report["sections"][name])
    return figure


def _steps(axes, rows: list[dict]) -> None:
    along = [row for row in rows if row["block"] == 0]
    axes.plot([row["ratio"] for row in along], [row["predicted"] for row in along], "--", color=GREY,
              label="predicted from operations")  # fmt: skip
    axes.plot([row["ratio"] for row in along], [row["speedup"] for row in along], "o-", color=BLUE, label="measured")
    axes.set(xlabel="drop ratio in block 0", ylabel="step faster than at d = 0 (x)")
    axes.legend()


def _lengths(axes, rows: list[dict]) -> None:
    milliseconds = [1e3 * row["median_seconds"] for row in rows]
    axes.plot([row["tokens"] for row in rows], milliseconds, ".-", color=BLUE, label="measured")
    even = [(row["tokens"], value) for row, value in zip(rows, milliseconds) if row["tokens"] % 32 == 0]
    axes.plot(*zip(*even), "o", mfc="none", color=ORANGE, label="multiples of 32")
    axes.set(xlabel="tokens, class token included", ylabel="two blocks, forward\nand backward (ms)", ylim=(0, None))
    axes.legend()


def _peers(axes, rows: list[dict]) -> None:
    names = [row["case"] for row in rows]
    colours = [BLUE if name.startswith("this project") else GREY for name in names]
    axes.barh(names, [row["images_per_second"] for row in rows], color=colours)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set(xlabel="training images a second, data included")
