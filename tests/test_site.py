"""The book as web pages: whole, linked, readable without a network; and refusals that write nothing."""

import re
from html.parser import HTMLParser

import nbformat
import pytest
from conftest import screenshot
from lab import use_both_explorers

from ptd_core.errors import OutputError
from ptd_core.site import build, main

TITLES = ["2. Progressive Token Drop", "The last chapter"]


class References(HTMLParser):
    """Every address in a page, with the tag that it stands in."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [(tag, value) for name, value in attributes if name in ("href", "src") and value]


def small_notebook(path, title=TITLES[1], **changes):
    """An executed notebook of one equation, one link and one cell."""
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=1)]
    cell.update(changes)
    prose = nbformat.v4.new_markdown_cell(f"# {title}\n\n**Why** & how? $a_i < b$ and a [link](index.html).")
    nbformat.write(nbformat.v4.new_notebook(cells=[prose, cell]), path)
    return path


@pytest.fixture(scope="module")
def site(executed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build([executed, small_notebook(folder / "last.ipynb")], folder)
    return folder


@pytest.mark.slow
def test_every_link_and_picture_of_the_site_is_there(site):
    pages = sorted(site.glob("*.html"))
    assert [page.name for page in pages] == ["2-progressive-token-drop.html", "index.html", "the-last-chapter.html"]
    for page in pages:
        references = References(page.read_text(encoding="utf-8")).found
        assert {"index.html", "2-progressive-token-drop.html", "the-last-chapter.html", "site.css"} <= {
            a for _, a in references
        }
        for tag, address in references:
            if address.startswith(("http://", "https://")):
                assert tag == "a"  # a reader may follow a link; the page itself fetches nothing
            elif not address.startswith(("data:", "#")):
                assert (site / address.partition("#")[0]).is_file(), f"{page.name}: {address}"


@pytest.mark.slow
def test_site_is_read_off_the_network(site, executed, open_page):
    page = open_page((site / "index.html").as_uri(), width=800, offline=True)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name=TITLES[0], exact=True).last.click()
    assert page.title() == TITLES[0]
    use_both_explorers(page)
    images = page.locator("main img")
    assert images.evaluate_all("found => found.every((image) => image.complete && image.naturalWidth > 100)")
    assert (
        images.evaluate_all("found => found.every((image) => image.alt.startsWith('Figure: '))") and images.count() >= 8
    )
    prose = "\n".join(c.source for c in nbformat.read(executed, 4).cells if c.cell_type == "markdown")
    block = len(re.findall(r"\$\$.+?\$\$", prose, re.DOTALL))
    assert page.locator(".equation svg").count() == block >= 3
    assert page.locator("p svg[role=img]").count() >= 5
    assert (
        "$" not in page.locator("main p").all_text_contents()[0] and "\\frac" not in page.locator("main").inner_text()
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    screenshot(page, "site_800")
    page.get_by_role("link", name="The last chapter →").click()
    assert page.title() == TITLES[1]
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:", "blob:"))] == []


def test_pages_of_small_notebooks(tmp_path):
    first, second = small_notebook(tmp_path / "a.ipynb", "One < two"), small_notebook(tmp_path / "b.ipynb", "Three")
    build([first, second], tmp_path / "site")
    index = (tmp_path / "site" / "index.html").read_text()
    assert '<a href="one-two.html">One &lt; two</a>' in index and "Why &amp; how?" in index
    page = (tmp_path / "site" / "three.html").read_text()
    assert 'href="one-two.html" rel="prev"' in page and 'rel="next"' not in page and 'aria-label="a_i &lt; b"' in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"execution_count": None, "outputs": []}, "not executed"),
        ({"outputs": [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]}, "a cell of it failed"),
    ],
)
def test_notebooks_that_did_not_run_are_refused_and_nothing_is_written(changes, words, tmp_path, capsys):
    good = small_notebook(tmp_path / "good.ipynb", "Good")
    bad = small_notebook(tmp_path / "bad.ipynb", **changes)
    assert main([str(good), str(bad), "--to", str(tmp_path / "site")]) == 2
    assert "bad.ipynb" in (said := capsys.readouterr().err) and words in said
    assert not (tmp_path / "site").exists()


def test_files_that_are_no_notebooks_and_equal_titles_are_refused(tmp_path):
    (tmp_path / "text.ipynb").write_text("no notebook")
    for wrong in ("text.ipynb", "absent.ipynb"):
        with pytest.raises(OutputError, match=rf"{wrong}: is not a notebook"):
            build([tmp_path / wrong], tmp_path / "site")
    same = small_notebook(tmp_path / "a.ipynb")
    with pytest.raises(OutputError, match="same page"):
        build([same, same], tmp_path / "site")


def test_what_cannot_be_a_page_is_one_sentence(tmp_path, capsys):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "empty.ipynb")
    for path, to, words in [
        (tmp_path / "empty.ipynb", tmp_path / "site", "has no title"),
        (small_notebook(tmp_path / "dots.ipynb", title="..."), tmp_path / "site", "has no title"),
        (
            small_notebook(tmp_path / "broken.ipynb", title="Broken $\\frac{1}{$"),
            tmp_path / "site",
            "cannot be made a page",
        ),
        (small_notebook(tmp_path / "whole.ipynb"), tmp_path / "whole.ipynb", "cannot be made"),
    ]:
        assert main([str(path), "--to", str(to)]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "site").exists()
