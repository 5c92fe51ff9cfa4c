"""Captions found in containers of each kind: beside images, in tables, in samples of shards."""

import json

import pytest

from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.sources import seals
from ddpm_core.sources.glance import listed
from tests.fake_s3 import BUCKET
from tests.images.image_files import image_file, write_folder, write_zip
from tests.sharding.small import tar_of

pytest_plugins = ["tests.s3_fixtures"]
IMAGE = image_file(0)
FILES = {
    "photos/cat/1.png": IMAGE,
    "photos/cat/1.txt": "a cat\n\u00e9ine Katze\n".encode(),
    "photos/cat/2.b.png": IMAGE,
    "photos/cat/2.b.TXT": b"b",
    "photos/cat/2.txt": b"of no image",
    "photos/dog/1.png": IMAGE,
    "photos/dog/3.jpeg": IMAGE,
    "photos/dog/3.json": b'{"label": 1, "words": ["c", "d"]}',
    "photos/README.txt": b"not UTF-8: \xff",
}
CAPTIONS = {"cat/1.png": ("a cat", "\u00e9ine Katze"), "cat/2.b.png": ("b",)}


def config(source, captions="beside", **changes):
    return DataConfig(name="images", source=str(source), captions=captions, **changes)


def found(data, cache):
    """{key: captions} of the images that have some; the listing."""
    _, listing = listed(data, cache=cache)
    items = [*listing.train, *listing.test]
    assert all(item.captions is not None for item in items)
    assert [item.captions for item in items] == [
        split[at].captions for split in (listing.train, listing.test) for at in range(len(split))
    ]
    return {item.key: item.captions for item in items if item.captions}, listing


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_texts_beside_images_are_found_wherever_they_lie(tmp_path, kind):
    """Catches: the caption of a neighbour, a stem that ends at the first dot, another folder's."""
    source = tmp_path / f"source.{kind}"
    if kind == "folder":
        write_folder(source, FILES)
    elif kind == "zip":
        write_zip(source, FILES)
    else:
        source.write_bytes(tar_of(FILES))
    captions, listing = found(config(source), tmp_path)
    assert captions == CAPTIONS
    counts = listing.caption_counts()
    assert counts["train"].num_without + counts["test"].num_without == 2
    # What is no caption of an image is passed over, and not looked at.
    assert sum(listing.passed_over.counts.values()) == 3
    of_json, _ = found(config(source, caption_key="words"), tmp_path)
    assert of_json == {"dog/3.jpeg": ("c", "d")}


def test_texts_in_a_bucket_are_read_at_once_and_stay_in_order(s3_server, tmp_path):
    """Catches: captions in the order in which a server answers."""
    numbers = range(40)
    for number in numbers:
        s3_server.objects[f"some photos/{number:02d}.png"] = IMAGE
        s3_server.objects[f"some photos/{number:02d}.txt"] = b"number %d" % number
    captions, _ = found(config(f"s3://{BUCKET}/some photos"), tmp_path)
    assert captions == {f"{number:02d}.png": (f"number {number}",) for number in numbers}


def test_what_was_made_of_other_captions_is_not_taken(tmp_path):
    """Catches: shards made ahead, or a record of archives, by the lengths of captions alone."""
    source = write_folder(tmp_path / "a", {"1.png": IMAGE, "2.png": IMAGE, "1.txt": b"abc"})
    table = tmp_path / "words.csv"
    table.write_text("file,text\n1.png,abc\n")
    of_table = config(write_zip(tmp_path / "a.zip", {"1.png": IMAGE}), "table")
    of_table = of_table.model_copy(update={"caption_table": str(table)})
    names, seals_ = [], []
    for text in ("abc", "abd"):
        (source / "1.txt").write_text(text)
        table.write_text(f"file,text\n1.png,{text}\n")
        _, listing = listed(config(source), cache=tmp_path)
        names.append((listing.train.names_sha256(), listing.test.names_sha256()))
        seals_.append(seals.seal_of(of_table).digest)
    assert names[0] != names[1]
    assert seals_[0] != seals_[1]


def test_captions_are_not_looked_at_unless_they_are_wanted(tmp_path):
    """Catches a folder of before that is refused for a text beside an image."""
    _, listing = listed(config(write_folder(tmp_path / "a", FILES), "none"), cache=tmp_path)
    assert {item.captions for item in (*listing.train, *listing.test)} == {None}
    assert listing.caption_counts() is None


def test_samples_of_shards_have_texts_of_three_endings(tmp_path):
    """Catches: a sample's `.text` that is taken for a lost file, another ending before `.txt`."""
    files = {}
    for number, ending in enumerate(("txt", "caption", "text", "cls")):
        files |= {f"0{number}.png": IMAGE, f"0{number}.cls": b"1"}
        if ending != "cls":
            files[f"0{number}.{ending}"] = ending.encode()
    files |= {"04.caption": b"second", "04.png": IMAGE, "04.cls": b"0", "04.txt": b"first"}
    files |= {"05.png": IMAGE, "05.cls": b"0", "05.json": json.dumps({"c": "of json"}).encode()}
    shards = write_folder(tmp_path / "shards", {"some-000000.tar": tar_of(files)})
    captions, listing = found(config(shards, on_bad="fail"), tmp_path)
    assert captions == {
        "00.png": ("txt",),
        "01.png": ("caption",),
        "02.png": ("text",),
        "04.png": ("first",),
    }
    assert {item.label for item in listing.train} <= {0, 1}
    # What is read is not passed over: there are a second caption, and JSON.
    assert sum(listing.passed_over.counts.values()) == 2
    assert found(config(shards, caption_key="c"), tmp_path)[0] == {"05.png": ("of json",)}


TABLES = {
    "csv": ("captions.csv", 'name,other,caption\n1.png,x,"a cat\n\u00e9ine Katze"\n2.b.png,,b\n'),
    "json": (
        "metadata.jsonl",
        '\n{"file_name": "./1.png", "text": ["a cat", "\u00e9ine Katze"]}\n'
        '{"file": "2.b.png", "caption": "b"}\n{"file_name": "9.png", "text": null}',
    ),
}


@pytest.mark.parametrize(("name", "text"), TABLES.values(), ids=TABLES)
def test_a_table_names_images_below_its_own_folder(tmp_path, name, text):
    """Catches: names taken from the root, the first of several tables alone, columns by number."""
    files = {key: data for key, data in FILES.items() if key.endswith((".png", ".jpeg"))}
    files["photos/cat/9.png"] = IMAGE
    source = write_folder(tmp_path / "a", {**files, f"photos/cat/{name}": text.encode()})
    (source / "photos" / name).write_text('{"file_name": "dog/1.png", "text": "woof"}')
    if name.endswith("csv"):
        (source / "photos" / name).write_text("file_name,text\ndog/1.png,woof\n")
    captions, _ = found(config(source, "table"), tmp_path)
    assert captions == {**CAPTIONS, "dog/1.png": ("woof",)}
    outside = tmp_path / "some words.csv"
    for start in ("photos/", ""):  # with the folder that everything lies in, or without
        outside.write_text(f"\ufefffile_name,text\n{start}dog/3.jpeg,c\n")
        data = config(source, "table", caption_table=str(outside))
        assert found(data, tmp_path)[0] == {"dog/3.jpeg": ("c",)}


WRONG = {
    "an image that is not there": (
        "file_name,text\n1.png,a\n7.png,b\n8.png,c\n",
        'names 2 .*"7',
    ),
    "an image twice": ("file_name,text\n1.png,a\n./1.png,b\n", 'line 3, names "./1.png"'),
    "no header": ("1.png,a cat\n", "must name them, and among them file_name and text"),
    "nothing": ("", "has the columns none"),
    "no text": ("file_name,text\n1.png,\n", "no text of any image"),
    "no UTF-8": (
        b"file_name,text\n1.png,caf\xe9\n",
        "is no text in UTF-8: byte 24",
    ),
    "a caption too long": ("file_name,text\n1.png," + 5000 * "x", "line 2, has a caption of 5000"),
    "a cell too long": ("file_name,text\n1.png," + 2**18 * "x", "is no CSV: field larger"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_table_that_is_none_is_refused_in_one_sentence(tmp_path, content, message):
    content = content if isinstance(content, bytes) else content.encode()
    files = {"a/1.png": IMAGE, "a/2.png": IMAGE, "a/captions.csv": content}
    source = write_folder(tmp_path / "a", files)
    with pytest.raises(DataError, match=message) as refused:
        listed(config(source, "table"), cache=tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3", "line 2, is no JSON object"),
        ("{", "line 2, "),
        ('{"text": "a"}', "has no file_name"),
        ('{"file_name": "1.png", "text": 3}', "neither a text nor a list"),
    ],
)
def test_a_line_of_json_that_is_none_is_refused(tmp_path, line, message):
    files = {"1.png": IMAGE, "2.png": IMAGE, "metadata.jsonl": f"\n{line}".encode()}
    with pytest.raises(DataError, match=message):
        listed(config(write_folder(tmp_path / "a", files), "table"), cache=tmp_path)


def test_what_is_no_caption_is_listed_by_name(tmp_path):
    """Catches: the first that ends the look, so that each is mended for the next refusal."""
    files = {f"{number}.png": IMAGE for number in range(12)}
    files |= {f"{number}.txt": b"\xff" for number in range(11)}
    source = write_folder(tmp_path / "a", files)
    with pytest.raises(DataError) as refused:
        listed(config(source), cache=tmp_path)
    text = str(refused.value)
    assert text.startswith(f"11 files of {source} have captions that cannot be used")
    assert '"0.txt" is no text in UTF-8: byte 0 is 0xff' in text
    assert "and 1 more" in text


def test_captions_that_are_nowhere_are_refused(tmp_path):
    source = write_folder(tmp_path / "a", {"1.png": IMAGE, "2.png": IMAGE, "3.txt": b"a"})
    for data, message in (
        (config(source), "no image has captions beside it: NAME.txt"),
        (config(source, caption_key="k"), "NAME.json with the key 'k'"),
        (config(source, "table"), "has no captions.csv or captions.jsonl"),
        (
            config(source, "table", caption_table=str(tmp_path / "no.csv")),
            "cannot be read: No",
        ),
    ):
        with pytest.raises(DataError, match=message):
            listed(data, cache=tmp_path)
    write_folder(source, {"1.txt": b"a", "1.TXT": b"b"})
    with pytest.raises(DataError, match="are both captions of one image"):
        listed(config(source), cache=tmp_path)
