"""The chapters as readers meet them: in a real JupyterLab and browser, untrusted, and exported off the network."""

import nbformat
import pytest
from conftest import TINY, screenshot
from lab import BOOK, SALIENCY, SCHEDULE, Lab, use_both_explorers, write_chapter
from nbconvert import HTMLExporter

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.slow

PROMPTS = '[...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map((prompt) => prompt.textContent)'


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    running = Lab(folder, tmp_path_factory.mktemp("state"))
    yield running
    running.stop()


def open_notebook(open_page, lab, path, width=1280):
    page = open_page(lab.address(path), width=width)
    page.wait_for_selector(".jp-Notebook .jp-Cell", state="attached")
    return page


def menu(page, *names):
    for name in names:
        page.locator(f".lm-MenuBar-itemLabel:text-is('{name}'), .lm-Menu-itemLabel:text-is('{name}')").click()


def run_all(page):
    """Run all cells and wait until the last code cell has run."""
    # Lab shows an idle kernel before it has reached one, and then forgets what it was told to run: ask the server.
    page.wait_for_function(
        """async () => (await (await fetch("/api/sessions")).json()).some(
            ({ path, kernel }) => location.pathname.endsWith(path) && kernel.connections
                && kernel.execution_state === "idle")"""
    )
    page.wait_for_timeout(3_000)  # the handshake of this page's own connection
    assert page.locator(".jp-Dialog").all_text_contents() == []
    for _ in range(5):
        menu(page, "Run", "Run All Cells")
        try:
            page.wait_for_function(f"() => {PROMPTS}.some((text) => /\\[(\\*|\\d+)\\]/.test(text))", timeout=60_000)
            break
        except sync_api.TimeoutError:  # a busy machine had not shaken hands yet, and Lab forgot it
            continue
    page.wait_for_function(f"() => {PROMPTS}.length && {PROMPTS}.every((text) => /\\[\\d+\\]/.test(text))")
    assert (
        page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").all_text_contents() == []
    )
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


@pytest.mark.parametrize("chapter", ["baseline", "ptd", "space"])
def test_chapter_runs_in_lab_and_its_explorers_answer(chapter, lab, open_page, tmp_path):
    drop = {"drop_final": 0.0} if chapter == "baseline" else {}
    drop |= {"epochs": 2, "subset": 64, "drop_shape": "flat"} if chapter == "space" else {}  # it trains four models
    own = ["widgets.own_image(done)"] * (chapter == "ptd")
    write_chapter(chapter, lab.folder, {**TINY, **drop, "out_dir": str(tmp_path), "run": "tiny"}, *own)
    page = open_notebook(open_page, lab, f"{chapter}.ipynb")
    run_all(page)
    page.frame_locator(SALIENCY).locator("rect.saliency").first.wait_for()
    if chapter == "ptd":
        use_both_explorers(page)
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 1000})
        for title in (SCHEDULE, SALIENCY)[chapter != "ptd" :]:
            page.locator(title).scroll_into_view_if_needed()
            frame = page.locator(title).element_handle().content_frame()
            frame.wait_for_function("document.body.scrollHeight <= innerHeight + 1")  # the frame has grown with it
            assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
            screenshot(page, f"lab_{chapter}_{'schedule' if title == SCHEDULE else 'saliency'}_{width}")
    if own:
        use_own_image(page, tmp_path / "runs" / "tiny" / "ptd_accuracy.png")


def use_own_image(page, picture):
    """Through the kernel, by the last cell."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="own image").click()
    chooser.value.set_files(picture)
    summary = page.frame_locator(SALIENCY).last.locator("#summary")
    summary.filter(has_text=f"{picture.name}, true class unknown").wait_for()


def test_saving_changes_what_was_edited_and_nothing_else(lab, open_page):
    """Opened, one line of prose edited, saved: no header, version or pairing is written into either file."""
    for chapter in ("baseline", "ptd"):
        for suffix in (".ipynb", ".py"):
            (lab.folder / f"{chapter}{suffix}").write_bytes((BOOK / f"{chapter}{suffix}").read_bytes())
    (lab.folder / "jupytext.toml").write_bytes((BOOK / "jupytext.toml").read_bytes())
    page = open_notebook(open_page, lab, "baseline.ipynb")
    assert page.locator(".jp-Dialog").count() == 0
    page.locator(".jp-MarkdownCell").first.locator("h1").dblclick()
    page.locator(".jp-MarkdownCell").first.locator(".cm-content").press("Control+End")
    page.keyboard.type(" Edited.")
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "/api/contents/" in answer.url) as put:
        page.keyboard.press("Control+s")
    assert put.value.ok
    cells = nbformat.read(BOOK / "baseline.ipynb", as_version=4).cells
    before = [cell.source for cell in cells]
    edited = before[0] + " Edited."
    script = (BOOK / "baseline.py").read_text()
    ending = "\n".join(f"# {line}" for line in before[0].splitlines()[-2:])
    assert (lab.folder / "baseline.py").read_text() == script.replace(ending, ending + " Edited.", 1)
    saved = nbformat.read(lab.folder / "baseline.ipynb", as_version=4)
    assert [cell.source for cell in saved.cells] == [edited, *before[1:]]
    assert [(dict(cell.metadata), cell.id) for cell in saved.cells] == [
        (dict(cell.metadata), cell.id) for cell in cells
    ]
    # Lab notes the version of the language once a kernel runs; no pairing is written into the notebook.
    kept = {name: value for name, value in saved.metadata.items() if name != "language_info"}
    assert kept == nbformat.read(BOOK / "baseline.ipynb", as_version=4).metadata


def test_untrusted_notebook_shows_its_figures(executed, lab, open_page):
    """A papermill output opened afresh: Lab strips frames and scripts; static figures stand, and a line says why."""
    (lab.folder / "out.ipynb").write_bytes(executed.read_bytes())
    page = open_notebook(open_page, lab, "out.ipynb")
    pictures = page.locator("[data-mime-type='image/png'] img")
    pictures.first.wait_for()
    saved = nbformat.read(executed, as_version=4)
    made = [
        o for cell in saved.cells if cell.cell_type == "code" for o in cell.outputs if "image/png" in o.get("data", {})
    ]
    assert pictures.count() == len(made) >= 8
    assert pictures.evaluate_all("found => found.every((image) => image.complete && image.naturalWidth > 100)")
    assert page.locator("iframe").count() == 0
    assert page.get_by_text("ptd_saliency_explorer.html").count() == 1
    page.get_by_text("ptd_saliency_explorer.html").scroll_into_view_if_needed()
    screenshot(page, "lab_untrusted")


def test_exported_html_works_off_the_network(executed, open_page, tmp_path):
    html, _ = HTMLExporter().from_filename(str(executed))
    (tmp_path / "out.html").write_text(html, encoding="utf-8")
    page = open_page((tmp_path / "out.html").as_uri(), offline=True)
    use_both_explorers(page)
    screenshot(page, "exported")
