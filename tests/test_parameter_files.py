"""Parameter files that something has happened to: each is a recipe, or one sentence that says where to look."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forked import run_module
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptd_core import __main__ as command_line
from ptd_core.cost import cost
from ptd_core.errors import RecipeError
from ptd_core.parameters import read_parameters
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.recipe import Recipe

FILES = {path.stem: path.read_bytes() for path in sorted((ROOT / "parameters").glob("*.yaml"))}
NAMES = list(Recipe.model_fields)

# Text of values, as somebody or something may write them.
NASTY = [
    "", "~", "null", "yes", "off", "4e-4", ".inf", "-.inf", ".nan", "1e999", "-0", "0x1F", "0b1", "017", "1_000",
    "1:30", "9" * 400, "9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000, "1e-320", "0.35000000000000003",
    "2026-11-24", "2026-99-99", "2026-11-24T25:61:61Z", "!!binary aGVsbG8=", "!!binary '%'", "!!int x", "!!float ''",
    "!!bool 2",
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!own 1", "[1, 2]", "[[[[]]]]", "{a: 1}",
    "{[1]: 2}", "{a: {b: {c: [1]}}}", "!!set {a, b}", "!!omap [a: 1]", "!!timestamp x", "&a 1", "*a", "&a [*a]", "<<",
    "'\\0'", '"\\0"', '"\\ud800"', '"\\u202e"', "|\n  a\n  b", "'", '"', "%", "@", "`", "../../etc", "/etc/passwd",
    "~root", "a" * 5000, "é", "\U0001f600", "١٢",
]  # fmt: skip


@st.composite
def changed_values(draw):
    """(file content, parameter): a value replaced by something else, or a line said again."""
    lines = FILES[draw(st.sampled_from(sorted(FILES)))].decode().splitlines()
    name = draw(st.sampled_from(NAMES))
    text = draw(
        st.one_of(
            st.sampled_from(NASTY),
            st.text(max_size=20),
            st.integers().map(str),
            st.floats().map(str),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.dates(),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                max_leaves=5,
            ).map(lambda value: yaml.safe_dump(value, default_flow_style=True).strip()),
        )
    )
    if draw(st.booleans()):
        lines = [line for line in lines if not line.startswith(f"{name}:")]
    lines.insert(draw(st.integers(0, len(lines))), f"{name}: {text}")
    return "\n".join(lines).encode("utf-8", "surrogatepass"), name


@st.composite
def changed_bytes(draw):
    """(file content, None): bytes replaced, cut out, said again, or put in."""
    content = FILES[draw(st.sampled_from(sorted(FILES)))]
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 1, 1, 2, 10, 200]))
        junk = draw(st.one_of(
            st.binary(max_size=8),
            st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\n", b":", b": ", b"\t", b"- ", b"&a ", b"*a",
                             b"---\n", b"...\n", b"%YAML 3.0\n", b"? ", b"<<: ",
                             b"[" * 3000, b"{a: " * 500, b"\x80", b"\r"]),
            st.integers(0, len(content)).map(lambda at: content[at : at + 60]),  # noqa: B023
        ))  # fmt: skip
        content = content[:place] + junk + content[place + length :]
    return content, None


def assert_recipe_or_refusal(content, name, path, monkeypatch, capsys):
    path.write_bytes(content)
    accepted = []

    class Accepted(Exception):
        pass

    def remember(recipe, ranks):
        accepted.append(recipe)
        raise Accepted

    monkeypatch.setattr(command_line, "execute", remember)
    try:
        status = command_line.main([str(path)])
    except Accepted:
        (recipe,) = accepted
        assert Recipe.from_values(recipe.model_dump()) == recipe
        kept = recipe.kept_tokens(recipe.epochs - 1)
        assert recipe.run_name and 1 <= kept <= recipe.vit.patch_tokens
        assert cost(recipe.vit, 10, recipe.token_drop, recipe.keep(recipe.epochs - 1)).training > 0
        for value in recipe.model_dump().values():
            assert not isinstance(value, float) or math.isfinite(value)
    else:
        out, err = capsys.readouterr()
        assert status == 2 and out == ""
        assert err.startswith(f"RecipeError: {path}") and err.count("RecipeError") == 1 and len(err) < 5000
        said = err.removeprefix(f"RecipeError: {path}")
        if name is not None and "is not valid YAML" not in said and "is not UTF-8" not in said:
            assert name in said or "expected a line of the form" in said


@pytest.mark.parametrize("name", ["run", "seed", "lr", "flip", "dataset", "out_dir", "data_dir"])
def test_each_nasty_value_for_each_type(name, tmp_path, monkeypatch, capsys):
    for text in NASTY:
        content = f"epochs: 3\n{name}: {text}\n".encode("utf-8", "surrogatepass")
        assert_recipe_or_refusal(content, name, tmp_path / "changed.yaml", monkeypatch, capsys)


@settings(
    max_examples=500, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(file=changed_values() | changed_bytes())
def test_changed_file_is_a_recipe_or_one_refusal(file, tmp_path_factory, monkeypatch, capsys):
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    assert_recipe_or_refusal(*file, path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: 3\nlr: 1.0e-3\nepochs: 4\n", ["epochs is given twice, in lines 1 and 3"]),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", ["alias *a in line 2"]),
        ("seed: " + "9" * 5000, ["line 1: seed", "cannot be read"]),
        ("seed: 0x" + "f" * 5000, ["seed should be ", "thousands of digits"]),
        ("seed: " + "9" * 100, ["seed should be less than or equal to 2147483647", "got 9999"]),
        ("lr: .nan", ["lr should be a finite number", "nan"]),
        ("lr: .inf", ["lr should be a finite number", "inf"]),
        ("lr: 1.0e+999", ["lr should be a finite number", "inf"]),
        ("epochs: 2026-11-24", ["epochs should be a valid integer", "got '2026-11-24'"]),
        ("seed: 010", ["line 1: seed", "YAML takes 010 for 8"]),
        ("seed: -0_17", ["line 1: seed", "YAML takes -0_17 for -15"]),
        ("epochs: 1:30", ["line 1: epochs", "YAML takes 1:30 for 90"]),
        ("lr: 1:30.5", ["line 1: lr", "YAML takes 1:30.5 for 90.5"]),
        ("epochs: 10.5", ["epochs should be a valid integer", "10.5"]),
        ("flip: sometimes", ["flip should be a valid boolean", "sometimes"]),
        ("precision: off", ["precision should be 'auto'", "False"]),
        ("data_dir: ~nobody_of_that_name/x", ["data_dir names a user", "does not exist here"]),
        ("out_dir: $NO_SUCH_VARIABLE/x", ["out_dir names a user", "NO_SUCH_VARIABLE"]),
        ("out_dir: ${NO_SUCH_VARIABLE}", ["out_dir names a user", "NO_SUCH_VARIABLE"]),
        ("epochs: [[1]]", ["epochs should be a valid integer", "[[1]]"]),
        ("epochs: {a: {b: 1}}", ["epochs should be a valid integer", "{'a': {'b': 1}}"]),
        ("epochs: {[1]: 2}", ["line 1: epochs", "not plain", "unhashable"]),
        ("lr: !!python/object/apply:os.system ['true']", ["line 1: lr", "not plain", "python/object/apply"]),
        ("<<: {epochs: 3}\n", ["<< = {'epochs': 3} is not a parameter"]),
        ("? [a]\n: 1\n", ["line 1: expected a line of the form `name: value`"]),
        ("epochs: 3\n---\nepochs: 4\n", ["not valid YAML", "single document"]),
        ("[" * 5000, ["deeply nested"]),
        ("data_dir: \"a\\0b\"", ["data_dir must not have control characters"]),
        ("out_dir: \"\\ud800\"", ["out_dir has a character that", "encoding, utf-8, lacks"]),
        ("mlp_ratio: 0.001", ["mlp_ratio = 0.001", "no hidden unit"]),
        ("epochs: [", ["not valid YAML"]),
        ("- 1\n- 2\n", ["name: value"]),
        ("1: 2\n", ["name: value"]),
        ("lr: 4e-4x\n", ["lr", "a valid number", "'4e-4x'"]),
        ("!!python/object/apply:os.system ['true']\n", ["name: value"]),
        ("just words", ["expected lines of the form `name: value`, got str"]),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, str) else "",
)  # fmt: skip
def test_refusals_say_what_and_where(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.from_yaml(tmp_path / "absent.yaml")


def test_bytes_that_are_no_text_and_files_that_are_too_long(tmp_path):
    path = tmp_path / "bad.yaml"
    for content, words in (
        (b"epochs: 3\n\xff\xfe", "is not UTF-8 text (invalid start byte at byte 10)"),
        ("epochs: 3\n".encode("utf-16"), "is not UTF-8 text"),
        (bytes(range(256)), "is not UTF-8 text"),
        (b"\0\0\0", "is not valid YAML"),
        (b"# " + b"x" * 100_000, "has more than 100,000 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecipeError) as caught:
            Recipe.from_yaml(path)
        assert f"{path}: {words}" in str(caught.value)
    for unreadable in (tmp_path, tmp_path / "absent", "/dev/zero", "a\0b", "x" * 300):
        with pytest.raises(RecipeError, match=r"cannot be read|has more than"):
            Recipe.from_yaml(unreadable)


def test_byte_order_mark_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfepochs: 3\r\nlr: 1.0e-3\r\n")
    assert read_parameters(path) == {"epochs": 3, "lr": 1e-3}


@pytest.mark.parametrize("stem", FILES)
def test_real_files_are_read_as_plain_yaml_reads_them(stem):
    assert read_parameters(ROOT / "parameters" / f"{stem}.yaml") == yaml.safe_load(FILES[stem])


def test_values_keep_their_yaml_types(tmp_path):
    path = tmp_path / "types.yaml"
    path.write_text("a: 1\nb: 1.5\nc: yes\nd: 'yes'\ne: 2026-11-24\nf: ~\ng: [1, {h: 2}]\n")
    assert read_parameters(path) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": "yes",
        "e": "2026-11-24",
        "f": None,
        "g": [1, {"h": 2}],
    }


def test_parameter_twice_on_the_command_line_is_refused(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("epochs: 3\n")
    with pytest.raises(RecipeError, match="command line: epochs is given twice"):
        Recipe.from_yaml(path, ["epochs=4", "lr=0.1", "epochs=5"])


def test_true_command_line_prints_no_traceback(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"epochs: 3\nseed: " + b"9" * 5000)
    anew = [sys.executable, "-m", "ptd_core", b"\xff\xfe.yaml", "epochs=" + "9" * 5000]
    for result in (run_module("ptd_core", path), subprocess.run(anew, cwd=ROOT, capture_output=True, text=True)):
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith("RecipeError: ") and result.stderr.count("\n") == 1


def test_values_that_yaml_reads_as_other_types_are_what_they_look_like(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGES", "/data/images")
    path = tmp_path / "odd.yaml"
    path.write_text(
        "run: 2025-11-25\ncompilation: off\nepochs: 1e1\nseed: 10.0\nbatch_size: 0x20\nflip: no\n"
        "data_dir: $IMAGES/cifar\nout_dir: ~/ptd\n"
    )
    recipe = Recipe.from_yaml(path)
    assert (recipe.run, recipe.compilation, recipe.epochs, recipe.seed) == ("2025-11-25", "off", 10, 10)
    assert (recipe.batch_size, recipe.flip) == (32, False)
    assert (recipe.data_dir, recipe.out_dir) == ("/data/images/cifar", str(Path.home() / "ptd"))
