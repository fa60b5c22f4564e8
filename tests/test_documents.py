"""YAML documents: what is read, what is refused and how the refusal is worded."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cost_models import DocumentError, documents
from cost_models.documents import (
    document,
    dump_document,
    parse_document,
    read_document,
    write_document,
)


@document
@dataclass(frozen=True)
class Part:
    name: str
    size: float = 1.0


@document
@dataclass(frozen=True)
class Whole:
    schema_version: int
    parts: tuple[Part, ...]
    counts: dict[str, int]
    note: str | None = None


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WHOLES = st.builds(
    Whole,
    st.integers(),
    st.lists(st.builds(Part, TEXT, FLOATS)).map(tuple),
    st.dictionaries(TEXT, st.integers(-(2**63), 2**63 - 1)),
    st.none() | TEXT,
)


@given(WHOLES)
def test_document_survives_its_text(value):
    assert parse_document(dump_document(value), Whole, "text") == value


@given(WHOLES)
def test_other_readers_of_yaml_see_the_same(value):
    assert yaml.safe_load(dump_document(value)) == documents.to_plain(value)


AWKWARD_TEXTS = (
    *("1e5", "12e45", "1e-05", "+1E9", "1:30", "0x1f", "2020-01-01", "no", "null", "~", "="),
    *("", " ", "\n", "\x85", "a\u2028b", "\u2029", "\ufeff", "- a", "{a: b}", "# a", "!!int 1"),
)


@pytest.mark.parametrize("text", AWKWARD_TEXTS, ids=ascii)
def test_awkward_text_stays_what_it_is(text):
    value = Whole(1, (Part(text),), {text: 1}, text)
    assert parse_document(dump_document(value), Whole, "text") == value


@pytest.mark.parametrize("written", ["1e-05", "1.0e-05", "1E-5", "0.00001", "1.0E-05"])
def test_float_is_read_however_it_is_written(written):
    assert parse_document(f"{{name: a, size: {written}}}", Part, "text").size == 1e-5


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("{schema_version: 1, parts: [], counts: {}, extra: 1}", "extra", "unexpected"),
        ("{schema_version: 1, parts: []}", "counts", "required"),
        ("{schema_version: 1, parts: {}, counts: {}}", "parts", "array"),
        ("{schema_version: 1, parts: [{name: 2}], counts: {}}", "parts[0].name", "2"),
        ("{schema_version: 1, parts: [{name: a}, {name: []}], counts: {}}", "parts[1].name", "[]"),
        ("{parts: [{name: a, size: big}], schema_version: 1, counts: {}}", "parts[0].size", "big"),
        ("{parts: [{name: a, size: .nan}], schema_version: 1, counts: {}}", "parts[0].size", "fin"),
        (
            "{parts: [{name: a, size: 1e999}], schema_version: 1, counts: {}}",
            "parts[0].size",
            "fin",
        ),
        ("{schema_version: 1, parts: [], counts: {a: 1.5}}", "counts.a", "1.5"),
        ("{schema_version: '1', parts: [], counts: {}}", "schema_version", "'1'"),
        ("{schema_version: true, parts: [], counts: {}}", "schema_version", "True"),
        ("[]", "the top", "[]"),
        ("just text", "the top", "'just text'"),
    ],
)
def test_misfit_is_named_by_file_place_and_value(tmp_path, text, where, what):
    path = tmp_path / "whole.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError) as caught:
        read_document(path, Whole, "whole")
    message = str(caught.value)
    assert message.startswith(f"whole {path}: at {where}: found ")
    assert what in message


@pytest.mark.parametrize("text", ["", "\n", "# nothing else\n", "~"])
def test_an_empty_file_is_called_empty(text):
    with pytest.raises(DocumentError, match=r"^text is empty; is it the right file\?$"):
        parse_document(text, Whole, "text")


def test_a_file_that_is_cut_off_is_told_in_one_sentence():
    with pytest.raises(DocumentError) as caught:
        parse_document("schema_version: 1\nparts: [{name: 'abc", Whole, "text")
    message = str(caught.value)
    assert message.startswith("text is not a plain YAML document: found unexpected end of stream")
    assert message.endswith("in line 2; correct it, or copy it again if it is cut off")


def test_long_texts_in_what_was_found_are_shortened_each_by_itself():
    with pytest.raises(DocumentError) as caught:
        parse_document(f"[{{note: {'long ' * 50}, value: -5}}]", Whole, "text")
    message = str(caught.value)
    assert "'value': -5}]" in message
    assert len(message) < 200


def test_several_misfits_are_counted():
    with pytest.raises(DocumentError, match=r"\(and 2 more\)"):
        parse_document("{schema_version: 1.5, parts: 1, counts: 1}", Whole, "text")


NOT_PLAIN_YAML = {
    "alias": "a: &x [1]\nb: *x",
    "bomb": "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]",
    "repeated key": "schema_version: 1\nschema_version: 2",
    "key that is no text": "1: 2",
    "key that is a list": "? [a]\n: 1",
    "merge key": "<<: {a: 1}",
    "python object": "!!python/object/apply:os.system ['true']",
    "unknown tag": "!foo bar",
    "date": "a: 2020-01-01",
    "set": "!!set {a, b}",
    "bytes": "a: !!binary aGk=",
    "empty int": "a: !!int ''",
    "empty float": "a: !!float ''",
    "bad bool": "a: !!bool perhaps",
    "bad timestamp": "a: !!timestamp never",
    "character out of range": '"\\UFFFFFFFF"',
    "endless integer": "a: " + "9" * 10_000,
    "deep": "[" * 20_000,
    "unfinished": "{a: [",
    "tab": "\ta: 1",
    "two documents": "a: 1\n---\nb: 2",
    "control character": "a: \x01",
}


@pytest.mark.parametrize("text", NOT_PLAIN_YAML.values(), ids=NOT_PLAIN_YAML)
def test_what_is_no_plain_yaml_is_refused(text):
    with pytest.raises(DocumentError, match=r"^the text is not a plain YAML document: "):
        parse_document(text, Whole, "the text")


def test_deep_but_closed_is_refused():
    with pytest.raises(DocumentError, match=r"^the text"):
        parse_document("[" * 300 + "]" * 300, Whole, "the text")


@given(st.text(max_size=40) | st.text(alphabet="{}[]:,&*!?|>-#'\"% \n\tae01.", max_size=40))
def test_no_text_raises_anything_else(text):
    with pytest.raises(DocumentError, match=r"^the text"):
        parse_document(text, Whole, "the text")


def test_missing_file_says_so(tmp_path):
    with pytest.raises(DocumentError, match="does not exist; check the path"):
        read_document(tmp_path / "none.yaml", Whole, "whole")


@pytest.mark.parametrize("path", [Path(), Path("a\0b")], ids=["folder", "no name"])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(DocumentError, match="cannot be read as text"):
        read_document(path, Whole, "whole")


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "whole.yaml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(DocumentError, match="cannot be read as text"):
        read_document(path, Whole, "whole")


def test_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "whole.yaml"
    with path.open("wb") as stream:
        stream.truncate(documents.MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(DocumentError, match="is it the right file"):
        read_document(path, Whole, "whole")


def test_scalars_of_a_list_share_a_line():
    shape = Whole(1, (Part("a", 2.5),), {"b": 1})
    assert dump_document(shape) == (
        "schema_version: 1\nparts:\n- name: a\n  size: 2.5\ncounts:\n  b: 1\nnote: null\n"
    )


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_what_could_not_be_read_back_is_not_written(tmp_path, figure):
    with pytest.raises(DocumentError, match="finite"):
        write_document(tmp_path / "part.yaml", Part("a", figure))
    assert list(tmp_path.iterdir()) == []
