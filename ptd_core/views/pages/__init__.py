"""Web pages made here: Jinja templates, and the styles and scripts that stand inside the pages."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent


def asset(name: str) -> str:
    """The text of a style or script of this folder, to stand inside a page."""
    return (FOLDER / name).read_text(encoding="utf-8")


def render(template: str, **values) -> str:
    """A page from a template of this folder. Values are escaped, unless the template marks them as HTML by `safe`."""
    return _TEMPLATES.get_template(template).render(values)


_TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.globals["asset"] = asset
# The filter `tojson` writes < as \u003c, so that no text in the data can end the script that holds it.
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
