"""python -m ptd_core.site [NOTEBOOK ...] [--to FOLDER]: the book as web pages that need no network and no kernel.

NOTEBOOKs are executed chapters, in the order of the book, such as papermill's out.ipynb. Without any, the chapters
are executed first, as they stand; a run that is already finished is shown, not repeated.
"""

import argparse
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat
import ziamath
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ptd_core.errors import OutputError, PTDError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.progress import say
from ptd_core.records.files import make_folder, write_atomically
from ptd_core.views.pages import asset, render

CHAPTERS = ("baseline", "ptd", "space", "evidence", "your_vit")
ziamath.config.svg2 = False  # each drawing with its own letters: shared ones have names that equations would share
BOOK_TITLE = "Progressive Token Drop: a book that runs"


@dataclass(frozen=True)
class Page:
    """One chapter: its file's name, its title, its first paragraph as text, and the notebook."""

    file: str
    title: str
    question: str
    notebook: nbformat.NotebookNode


class _Renderer(IPythonRenderer):
    """Equations as drawings: MathJax would have to be fetched, and few machines have a font for browsers' MathML."""

    def block_math(self, body: str) -> str:
        return f'<div class="equation">{equation(body, 19)}</div>'

    def inline_math(self, body: str) -> str:
        return equation(body, 16, inline=True)


def equation(latex: str, size: float, inline: bool = False) -> str:
    """An equation as SVG, its letters `size` pixels high and standing on the line of the text around it."""
    drawn = ziamath.Latex(latex, size=size, color="#222222", inline=inline)
    place = f'role="img" aria-label="{escape(latex)}" style="vertical-align: {drawn.getyofst():.2f}px"'
    return drawn.svg().replace("<svg ", f"<svg {place} ", 1)


class _Exporter(HTMLExporter):
    template_name = "basic"

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        return MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(source)


def build(notebooks: list[Path], folder: Path) -> list[Path]:
    """Write index.html, one page per executed notebook, and the style into `folder`; the pages' paths.

    Raises OutputError for a file that is not an executed notebook, or whose run failed; nothing is written then.
    """
    pages = [read_page(path) for path in notebooks]
    if len({page.file for page in pages}) < len(pages):
        raise OutputError(f"two notebooks would be the same page: {', '.join(map(str, notebooks))}")
    written = {"index.html": render("site_contents.html.j2", title=BOOK_TITLE, pages=pages, here=None)}
    exporter = _Exporter()
    for before, page, after in zip([None, *pages[:-1]], pages, [*pages[1:], None]):
        try:
            body, _ = exporter.from_notebook_node(page.notebook)
        except Exception as error:  # whatever a template or an equation that cannot be drawn raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OutputError(f"{page.title!r} cannot be made a page ({reason})") from None
        around = {"pages": pages, "here": page, "before": before, "after": after}
        written[page.file] = render("site_chapter.html.j2", title=page.title, body=body, **around)
    make_folder(folder)
    for name, text in {"site.css": asset("site.css"), **written}.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in written]


def read_page(path: Path) -> Page:
    """An executed notebook as a page. Raises OutputError if it is absent, damaged, not executed, or failed."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise OutputError(f"{path}: is not a notebook that can be read ({' '.join(str(error).split())})") from None
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if any(cell.execution_count is None for cell in cells):
        raise OutputError(f"{path}: has cells that were not executed; run it first, with papermill or in JupyterLab")
    if any(output.output_type == "error" for cell in cells for output in cell.outputs):
        raise OutputError(f"{path}: a cell of it failed; run it again")
    paragraphs = notebook.cells[0].source.split("\n\n") if notebook.cells else [""]
    title = paragraphs[0].removeprefix("# ").strip()
    if not _name(title):
        raise OutputError(f"{path}: has no title; its first cell must begin with one")
    question = " ".join(paragraphs[1].split()).replace("*", "") if len(paragraphs) > 1 else ""
    return Page(f"{_name(title)}.html", title, question, _with_alternatives(notebook))


def execute_chapters(folder: Path) -> list[Path]:
    """Run the book's chapters as they stand into `folder`; the executed notebooks. Raises OutputError if one fails."""
    import papermill

    make_folder(folder)
    for chapter in CHAPTERS:
        source = PROJECT_ROOT / "book" / f"{chapter}.ipynb"
        try:
            papermill.execute_notebook(source, folder / f"{chapter}.ipynb")
        except papermill.PapermillExecutionError as error:
            raise OutputError(f"{folder / source.name}: the chapter failed ({error.ename}: {error.evalue})") from None
    return [folder / f"{chapter}.ipynb" for chapter in CHAPTERS]


def _with_alternatives(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Each picture gets its section's heading as the text that stands for it."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            heading = headings[-1] if headings else heading
        else:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.metadata["image/png"] = {"alt": f"Figure: {heading}"}
    return notebook


def _name(title: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in title.lower()).split()
    return "-".join(words)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.site", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="executed chapters, such as out.ipynb")
    parser.add_argument("--to", type=Path, default=PROJECT_ROOT / "site", help="folder of the pages (default: site)")
    options = parser.parse_args(arguments)
    try:
        pages = build(options.notebooks or execute_chapters(PROJECT_ROOT / "runs" / "book"), options.to)
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    say(f"the book is {pages[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
