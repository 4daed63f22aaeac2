"""Sources: what becomes an item, what is passed over, what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import picture, save_pictures
from containers import write_tar

from featx.errors import ImageError, SourceError, UnreachableError
from featx.slices import Slice
from featx.sources import places
from featx.sources.load import load_manifest


def test_class_folders_of_any_depth(tmp_path: Path) -> None:
    for name in ("b/x/y/2.png", "a/1.png", "a/ü ñ/3.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(tmp_path / name, "PNG")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    found = load_manifest(tmp_path)
    assert found.ids == ["a/1.png", "a/ü ñ/3.JPG", "b/x/y/2.png"]
    assert found.labels == ["a", "a", "b"]
    assert found.ignored == 2


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "one.png")
    assert load_manifest(str(tmp_path)).labels is None


def test_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    save_pictures(root, 2)
    save_pictures(outside, 2)
    (root / "cat" / "link.png").symlink_to(outside / "cat" / "0000.png")
    (root / "away").symlink_to(outside)
    (root / "cat" / "up").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "nothing.png").symlink_to(root / "gone.png")
    found = load_manifest(root)
    assert found.ids == [
        *("away/cat/0000.png", "away/dog/0001.png"),
        *("cat/0000.png", "cat/link.png", "dog/0001.png"),
    ]
    assert found.refused == {
        "cat/up": "a loop of links",
        "nothing.png": "a link to nothing",
        "self.png": "a loop of links",
    }


def test_classes_that_are_links_to_folders_elsewhere(tmp_path: Path) -> None:
    save_pictures(tmp_path / "store", 6)
    (tmp_path / "subset").mkdir()
    (tmp_path / "subset" / "miau").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "subset" / "wau").symlink_to(Path("..") / "store" / "dog")
    (tmp_path / "again").symlink_to(tmp_path / "subset")
    for source in ("subset", "again"):
        found = load_manifest(tmp_path / source)
        assert found.labels == ["miau"] * 3 + ["wau"] * 3
        assert not found.refused
        assert found.read(0)[0] == (tmp_path / "store" / "cat" / "0000.png").read_bytes()


def test_a_link_that_leads_nowhere_may_be_a_folder_that_is_not_mounted(tmp_path: Path) -> None:
    save_pictures(tmp_path, 2)
    (tmp_path / "bird").symlink_to(tmp_path / "gone")
    with pytest.raises(UnreachableError, match="bird cannot be listed: a link to nothing"):
        load_manifest(tmp_path)


UNLISTED = """
import os, sys
from pathlib import Path
from featx.sources.load import load_manifest
root = Path(sys.argv[1])
load_manifest(sys.argv[2])  # what is imported must be there before the rights are gone
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
os.chmod(root / "dog", 0)
try:
    print(list(load_manifest(sys.argv[2]).ids))
except Exception as error:
    print(type(error).__name__, error)
finally:
    os.chmod(root / "dog", 0o755)
"""


@pytest.mark.parametrize("inside", ["dog", "link", ".dog", "dog/*.png", "**/*.png", "*/*.png"])
def test_a_folder_that_cannot_be_listed_ends_the_run(inside: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        ends_the_run(Path(folder), inside)


def ends_the_run(folder: Path, inside: str) -> None:
    root = folder / "s"
    save_pictures(root, 4)
    if inside.startswith("."):
        (root / "dog").rename(root / ".dog")
    if inside == "link":
        (root / "dog").rename(folder / "store")
        (root / "dog").symlink_to(folder / "store")
    code = UNLISTED.replace('"dog"', '".dog"') if inside.startswith(".") else UNLISTED
    for path in (root, *root.rglob("*"), *folder.glob("store")):
        os.chown(path, 65534, 65534) if os.getuid() == 0 else None
    source = root / inside if "*" in inside else root
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if inside.startswith("."):  # nothing in it counts
        assert done.stdout.strip() == "['cat/0000.png', 'cat/0002.png']", done.stderr
    else:
        assert "UnreachableError" in done.stdout, (done.stdout, done.stderr)
        assert "/*" in inside or "dog cannot be listed: " in done.stdout
        assert "Permission denied" in done.stdout


@pytest.mark.parametrize(
    ("names", "split", "labels"),
    [
        ("train/a/1 val/a/2 test/b/3", "train validation test", "a a b"),
        ("Train/a/1 VALID/b/2", "train validation", "a b"),
        ("train/a/x/1 validation/b/2 train/3", "train train validation", "- a b"),
        ("train/1 test/2", "train test", None),
        ("train/a/1 train/b/2", None, "a b"),
        ("test/a/1", None, "a"),
        ("train/1 train/2", None, "train train"),
        ("car/1 train/2 test/3", None, "car test train"),
        ("valid/1 invalid/2", None, "invalid valid"),
        ("valid/a/1 val/b/2", None, "val valid"),
        ("train/a/1 test/b/2 extra/c/3", None, "extra test train"),
    ],
)
def test_folders_of_a_split(
    tmp_path: Path, names: str, split: str | None, labels: str | None
) -> None:
    for name in names.split():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(path)
    found = load_manifest(tmp_path)
    wanted = None if labels is None else [None if n == "-" else n for n in labels.split()]
    by_name = dict(zip(found.ids, found.labels or [None] * len(found), strict=True))
    assert sorted(map(str, by_name.values())) == sorted(map(str, wanted or [None] * len(found)))
    assert sorted(found.split or []) == sorted((split or "").split())
    for name, label in by_name.items():
        assert label is None or label in name.split("/")
    said = [note["code"] for note in found.notes]
    assert (said == ["split-folders-as-classes"]) == (
        {"train", "test"} < set((labels or "").split())
    )
    parts = [load_manifest(tmp_path, Slice(k, 2)) for k in (1, 2)]
    assert {
        name: label
        for part in parts
        for name, label in zip(part.ids, part.labels or [None] * len(part), strict=True)
    } == by_name


def test_links_into_each_others_folders_end(tmp_path: Path) -> None:
    """Each is followed once on a way; five folders would give 4 ** 64 ways."""
    names = "abcde"
    for name in names:
        (tmp_path / name).mkdir()
        picture(ord(name)).save(tmp_path / name / "x.png")
        for other in names.replace(name, ""):
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    found = load_manifest(tmp_path)
    ways = sum(math.perm(5, k) for k in range(1, 6))
    assert len(found) == ways
    assert "a/to-b/to-c/x.png" in found.ids
    assert found.refused["a/to-b/to-a"] == "a loop of links"


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(odd, "wb") as file:  # noqa: PTH123 - bytes
        picture(1).save(file, "PNG")
    picture(2).save(tmp_path / "two\nlines.png")
    found = load_manifest(tmp_path)
    assert found.ids == ["caf\\xe9.png", "two\nlines.png"]
    assert found.read(0)[0].startswith(b"\x89PNG")


def test_a_pipe_does_not_stop_the_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        load_manifest(tmp_path).read(0)


def test_table_keeps_every_column(tmp_path: Path) -> None:
    save_pictures(tmp_path, 4)
    table = pd.DataFrame(
        {
            "path": ["cat/0000.png", "dog/0001.png", "cat/0002.png", "dog/0003.png"],
            "label": ["NA", "None", "", "NA"],
            "group": ["p1", "p1", "p2", "p2"],
            "split": ["train", "val", "test", ""],
            "age": [1.5, 2.5, 3.5, 4.5],
        }
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        found = load_manifest(tmp_path / name)
        assert found.ids == list(table["path"])
        assert found.labels == ["NA", "None", None, "NA"]
        assert found.split == ["train", "validation", "test", ""]
        assert list(found.columns["group"]) == ["p1", "p1", "p2", "p2"]
        # Text in a text table, numbers where the table says that they are.
        wanted = table["age"].astype(str) if name == "t.csv" else table["age"]
        np.testing.assert_array_equal(found.columns["age"], wanted)
        assert found.read(3)[0] == (tmp_path / "dog" / "0003.png").read_bytes()


@pytest.mark.parametrize("names", ["train dev", "training testing", "Training eval"])
def test_folders_that_are_almost_a_split_are_said(tmp_path: Path, names: str) -> None:
    for name in names.split():
        (tmp_path / name / "a").mkdir(parents=True)
        picture(1).save(tmp_path / name / "a" / "1.png")
    found = load_manifest(tmp_path)
    assert [note["code"] for note in found.notes] == ["split-folders-as-classes"]
    assert set(found.labels or ()) == set(names.split())


def test_a_quote_that_is_not_closed_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path,label\na,x\nb,"cat\nc,dog\nd,"bird\ne,y\n')
    (said,) = load_manifest(tmp_path / "t.csv").notes
    assert said["code"] == "table-line-breaks"
    assert "column `label` goes over several lines in 1 rows, first in row 2; " in said["message"]


def test_a_missing_number_is_the_number_however_it_is_written(tmp_path: Path) -> None:
    columns = {"path": ["x", "y", "z"], "label": [-1.0, 2.0, 3.0], "age": [-1.0, 0.5, np.nan]}
    pq.write_table(pa.table(columns), tmp_path / "t.pq")
    for text in ("-1", "-1.0"):
        found = load_manifest(tmp_path / "t.pq", missing=["NA", text])
        assert found.labels == [None, "2", "3"]
        assert np.isnan(np.asarray(found.columns["age"], float)).tolist() == [True, False, True]


def test_a_folder_is_looked_through_once_for_all_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    form = places._form
    monkeypatch.setattr(places, "_form", lambda name: seen.append(name) or form(name))
    (tmp_path / "p").mkdir()
    for k in range(100):
        (tmp_path / "p" / f"{k}.PNG").touch()
    lines = [f"p\\{k}.png" for k in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(["path", *lines]))
    found = load_manifest(tmp_path / "t.csv")
    assert found.paths == [f"{tmp_path}/p/{k}.PNG" for k in range(100)]
    assert len(seen) < 5000  # not a hundred names for each of a hundred paths


def test_labels_of_a_text_table_are_letters(tmp_path: Path) -> None:
    words = ["007", "7", "1E5", "100000.0", "TRUE", "True", "123456789012345678", "", "nan", " a"]
    lines = [f"{k}.png,{word},{word}" for k, word in enumerate(words)]
    (tmp_path / "t.csv").write_text("path,label,site\n" + "\n".join(lines) + "\n")
    found = load_manifest(tmp_path / "t.csv")
    assert found.labels == [word or None for word in words]
    assert list(found.columns["site"]) == words
    said = load_manifest(tmp_path / "t.csv", missing=["nan", "7"])
    assert said.labels == [None if word in ("", "nan", "7") else word for word in words]
    assert list(said.columns["site"])[:2] == ["007", ""]


def test_numbers_of_a_parquet_table(tmp_path: Path) -> None:
    code = 123456789012345678
    kinds = {
        "codes": (pa.array([code, None, code + 1]), [str(code), None, str(code + 1)]),
        "floats": (pa.array([7.0, None, 8.0]), ["7", None, "8"]),
        "truth": (pa.array([True, None, False]), ["True", None, "False"]),
        "words": (pa.array(["007", None, "NA"]).dictionary_encode(), ["007", None, "NA"]),
        "money": (pa.array([Decimal("1.50"), None, Decimal("2.00")]), ["1.50", None, "2.00"]),
        "bytes": (pa.array([b"cat", None, b"dog"]), ["cat", None, "dog"]),
    }
    for values, wanted in kinds.values():
        columns = {"path": ["a", "b", "c"], "label": values, "more": values}
        pq.write_table(pa.table(columns), tmp_path / "t.pq")
        found = load_manifest(tmp_path / "t.pq")
        assert found.labels == wanted
        if not pa.types.is_floating(values.type):
            assert list(found.columns["more"]) == [word or "" for word in wanted]
    pq.write_table(pa.table({"path": ["a", "b"], "label": [0.5, None]}), tmp_path / "t.pq")
    labels = load_manifest(tmp_path / "t.pq").labels
    assert isinstance(labels, np.ndarray)
    np.testing.assert_array_equal(labels, [0.5, np.nan])


ENCODED = {
    "utf-8-sig": None,
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "utf-32": "UTF-32",
    "cp1252": "Windows-1252",
}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_how_a_table_is_written_is_found_out(tmp_path: Path, encoding: str, separator: str) -> None:
    text = separator.join(["path", "label", "note"]) + "\r\n"
    text += separator.join(["a.png", "Möhre", '"two\nlines"']) + "\r\n"
    text += separator.join(["b.png", "1,5" if separator != "," else '"1,5"', ""]) + "\r\n"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    found = load_manifest(tmp_path / "t.csv")
    assert found.ids == ["a.png", "b.png"]
    assert found.labels == ["Möhre", "1,5"]
    assert list(found.columns["note"]) == ["two\nlines", ""]
    said = " ".join(note["message"] for note in found.notes)
    assert (ENCODED[encoding] or "") in said
    assert ("between its fields" in said) == (separator != ",")
    assert bool(found.notes) == (separator != "," or ENCODED[encoding] is not None)


def test_the_line_that_tells_excel_the_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\npath;label\na,b.png;x\n")
    found = load_manifest(tmp_path / "t.csv")
    assert found.ids == ["a,b.png"]
    assert found.labels == ["x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,b\n", "no column `path`"),
        ("path\n", "no rows"),
        ("path,id\na,x\nb,x\n", "'x' stands in rows 1 and 2"),
        ("path\na\na\n", "stands in rows 1 and 2"),
        ("path,label\na,b\n,c\n", "empty in row 2"),
        ("path,split\na,tests\n", "'tests' in row 1"),
        ("path,a/b\nx,1\n", "slash"),
        ("path,\0b\nx,1\n", "slash"),
        ("path, label\nx, a\n", "column ' label' has a space around its name; write 'label'"),
        ("path, Label \nx,a\n", "column ' Label ' has a space around its name; write 'label'"),
        ("path,label\u200b\nx,a\n", r"u200b' has an invisible letter in its name; write 'label'"),
        ("path,label,label\nx,1,2\n", "'label' stands twice in the header .columns 2 and 3"),
        ("path;label;a;a\nx;1;2;3\n", "'a' stands twice"),
        ("path,label\nx,a,more\ny,b,more\n", "more fields than the header has names"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        load_manifest(tmp_path / "t.csv")


def test_columns_that_only_case_keeps_from_a_meaning_are_said(tmp_path: Path) -> None:
    columns = {"Label": ["a", "b"], "GROUP": ["p", "q"], "Split": ["x", "y"], "Path": ["1", "2"]}
    pd.DataFrame({"path": ["x", "y"], **columns}).to_csv(tmp_path / "t.csv", index=False)
    pq.write_table(pa.table({"image": [b"1", b"2"], **columns}), tmp_path / "c.pq")
    write_tar(tmp_path / "t.tar", [("1.png", b"x"), ("1.json", b'{"Label": "a", "label": "b"}')])
    found = load_manifest(tmp_path / "t.csv")
    assert [one["code"] for one in found.notes] == ["column-case"] * 3
    assert (
        "'Label' is kept under its name, and is not the label of its rows; write `label`"
        in (found.notes[0]["message"])
    )
    assert list(found.columns) == list(columns)
    assert len(load_manifest(tmp_path / "c.pq").notes) == 4
    assert not load_manifest(tmp_path / "t.tar").notes


def test_long_names_make_short_messages(tmp_path: Path) -> None:
    long = "x" * 10_000
    columns = ",".join(f"column{k}" for k in range(1000))
    for text in (
        f"path,id\na,{long}\nb,{long}\n",
        f"path,split\na,{long}\n",
        f"path,a/{long}\na,1\n",
        f"file,{columns}\na\n",
        f"{long}\na\n",
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(SourceError) as error:
            load_manifest(tmp_path / "t.csv")
        assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_lists_as_labels_are_refused(tmp_path: Path) -> None:
    pd.DataFrame({"path": ["x", "y"], "label": [["a"], ["b", "c"]]}).to_parquet(tmp_path / "t.pq")
    with pytest.raises(SourceError, match=r"`label` in row 1 is a list; write several .* as a\|b"):
        load_manifest(tmp_path / "t.pq")
    pq.write_table(pa.table({"path": ["x", "y"], "label": [None, {"a": 1}]}), tmp_path / "t.pq")
    with pytest.raises(SourceError, match="`label` in row 2 is an object; write a name"):
        load_manifest(tmp_path / "t.pq")


@pytest.mark.parametrize("name", ["path", "id", "label", "group", "split"])
@pytest.mark.parametrize("marked_as_text", [True, False])
def test_text_of_parquet_that_is_not_utf_8_is_refused(
    tmp_path: Path, name: str, marked_as_text: bool
) -> None:
    raw = pa.array([b"a", "ä".encode("cp1252")])
    values = pa.Array.from_buffers(pa.string(), 2, raw.buffers()) if marked_as_text else raw
    columns = {"path": ["x", "y"], name: values}
    pq.write_table(pa.table(columns), tmp_path / "t.pq")
    with pytest.raises(SourceError, match=f"t.pq: column '{name}' is not UTF-8 text"):
        load_manifest(tmp_path / "t.pq")
    if name != "path":
        pq.write_table(pa.table({"img": [b"1", b"2"], name: values}), tmp_path / "c.pq")
        with pytest.raises(SourceError, match=f"c.pq: column '{name}' is not UTF-8 text"):
            load_manifest(tmp_path / "c.pq")


def test_bytes_beside_images_are_text_where_they_have_a_meaning(tmp_path: Path) -> None:
    words = pa.array([b"one", b"two"])
    columns = {"img": [b"1", b"2"], "label": words, "group": words, "id": words}
    pq.write_table(pa.table(columns), tmp_path / "c.pq")
    found = load_manifest(tmp_path / "c.pq")
    assert found.ids == ["one", "two"]
    assert found.labels == ["one", "two"]
    assert list(found.columns["group"]) == ["one", "two"]


def test_paths_that_are_lists_or_objects_are_refused(tmp_path: Path) -> None:
    for values in ([["x"], ["y"]], [{"bytes": b"1", "path": "x"}, {"bytes": b"2", "path": "y"}]):
        pq.write_table(pa.table({"path": values, "label": ["a", "b"]}), tmp_path / "t.pq")
        with pytest.raises(SourceError, match=r"`path` is of type .*; write one text a row"):
            load_manifest(tmp_path / "t.pq")


def numbered(place: Path, codes: list[int], names: list[str]) -> None:
    """A Parquet file of pictures whose labels are numbers of classes."""
    feature = {"label": {"_type": "ClassLabel", "names": names}}
    said = {"huggingface": json.dumps({"info": {"features": feature}})}
    table = pa.table({"image": [b"x"] * len(codes), "label": codes})
    pq.write_table(table.replace_schema_metadata(said), place)


def test_each_file_names_its_own_classes(tmp_path: Path) -> None:
    numbered(tmp_path / "1.parquet", [0, 1, -1], ["cat", "dog"])
    numbered(tmp_path / "2.parquet", [0, 1, 2], ["dog", "cat", "owl"])
    assert load_manifest(tmp_path).labels == ["cat", "dog", None, "dog", "cat", "owl"]
    numbered(tmp_path / "2.parquet", [0, 2], ["dog", "cat"])
    with pytest.raises(SourceError, match="class number 2, and 2 classes have names"):
        load_manifest(tmp_path / "2.parquet")


@pytest.mark.parametrize("values", [[0.5, np.inf], [1.0, -np.inf], [1.0, 2.0**60]])
def test_labels_that_are_no_labels(tmp_path: Path, values: list[float]) -> None:
    pq.write_table(pa.table({"path": ["x", "y"], "label": values}), tmp_path / "t.pq")
    with pytest.raises(SourceError, match=r"`label` in row 2 is (infinite|a float beyond)"):
        load_manifest(tmp_path / "t.pq")


def test_bytes_of_no_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"path,label\na,\x81\xff\n")
    with pytest.raises(SourceError, match="neither UTF-8 nor Windows-1252 text; save it as UTF-8"):
        load_manifest(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x1f\x8b", r"compressed \(gzip\)"),
        (b"PK\x03\x04", "an Excel workbook"),
        (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path: Path, start: bytes, kind: str) -> None:
    (tmp_path / "t.csv").write_bytes(start + b"\xa1\0\x01" * 50)
    with pytest.raises(SourceError, match=f"t.csv is {kind}.*, not text; save it as CSV"):
        load_manifest(tmp_path / "t.csv")
    (tmp_path / "t.xlsx").write_bytes(start)
    with pytest.raises(SourceError, match=r"or save the table as CSV$"):
        load_manifest(tmp_path / "t.xlsx")


def test_an_empty_source_is_not_this_folder() -> None:
    with pytest.raises(SourceError, match=r"empty text; write \. for this folder"):
        load_manifest("")


def test_a_name_with_a_zero_byte_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"path\nx\0.png\n")
    with pytest.raises(ImageError, match="null byte"):
        load_manifest(tmp_path / "t.csv").read(0)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        load_manifest(tmp_path / "gone")
    with pytest.raises(SourceError, match="did you mean digits"):
        load_manifest("digit")
    with pytest.raises(SourceError, match="holds no images"):
        load_manifest(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(SourceError, match="is a pipe or a device"):
        load_manifest(tmp_path / "pipe.csv")
    with pytest.raises(SourceError, match="list of paths is empty"):
        load_manifest([])


def test_built_in_sets() -> None:
    digits = load_manifest("digits")
    assert len(digits) == 1797
    assert digits.read(0)[0] == digits.read(0)[0]
    pytest.importorskip("elpv_dataset")
    elpv = load_manifest("elpv")
    assert len(elpv) == 2624
    assert elpv.labels.count("defective") == 821  # type: ignore[union-attr]
    blocks = np.bincount(elpv.columns["block"])
    assert blocks.min() >= 59
    assert blocks.max() <= 60
    kinds = pd.crosstab(elpv.columns["type"], np.round(elpv.columns["probability"], 2))
    assert kinds.loc["mono"].tolist() == [588, 117, 56, 313]
    assert kinds.loc["poly"].tolist() == [920, 178, 50, 402]
