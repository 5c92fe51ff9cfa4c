"""Names of foreign files reach a terminal without control characters, in every message."""

import logging
import os

import pytest

from ddpm_core.errors import PipelineError
from ddpm_core.recipes import recipe
from ddpm_core.sharding.source import require_few_rejected
from ddpm_core.shards.index import Rejected
from ddpm_core.sources.containers.container import PassedOver
from ddpm_core.sources.containers.opening import open_container
from ddpm_core.sources.listing import list_images
from tests.images.image_files import image_file, write_folder, write_zip
from tests.sources.containers.test_tarred import tar_of

EVIL = "\x1b[2J\x1b]0;owned\x07\u202egnp\x9b31m"
PNG = image_file(0)


def plain_folder(folder):
    """Damaged as an image, of another kind, twice, a class, a link: each is named in an error."""
    return write_folder(folder, {f"{EVIL}.bmp": PNG, "a.png": PNG, "b.png": PNG})


def beside_classes(folder):
    return write_folder(folder, {f"{EVIL}/a.png": PNG, f"{EVIL}.png": PNG, "b/c.png": PNG})


def no_class_in_common(folder):
    return write_folder(
        folder, {"train/a/1.png": PNG, "train/b/1.png": PNG, f"test/{EVIL}/1.png": PNG}
    )


def link_to_a_folder(folder):
    write_folder(folder, {"a.png": PNG})
    (folder / EVIL).symlink_to("..")
    return folder


def damaged_shard(folder):
    return write_folder(folder, {f"{EVIL}.tar": tar_of({"a.png": PNG, "a.cls": b"0"})[:700]})


def shard_with_a_bad_label(folder):
    return write_folder(folder, {f"{EVIL}.tar": tar_of({"a.png": PNG, "a.cls": EVIL.encode()})})


def shard_with_a_name_outside(folder):
    return write_folder(folder, {"x.tar": tar_of({f"../{EVIL}.png": PNG})})


def zip_with_a_name_outside(folder):
    folder.mkdir()
    return write_zip(folder / "x.zip", {f"../{EVIL}.png": PNG})


def zip_named_so(folder):
    folder.mkdir()
    write_zip(folder / "x.zip", {"a.png": PNG})
    (folder / "x.zip").rename(folder / f"{EVIL}.zip")
    content = (folder / f"{EVIL}.zip").read_bytes()
    (folder / f"{EVIL}.zip").write_bytes(content[:-30])
    return folder / f"{EVIL}.zip"


@pytest.mark.parametrize(
    "make",
    [
        plain_folder,
        beside_classes,
        no_class_in_common,
        link_to_a_folder,
        damaged_shard,
        shard_with_a_bad_label,
        shard_with_a_name_outside,
        zip_with_a_name_outside,
        zip_named_so,
    ],
)
def test_no_message_about_a_foreign_name_holds_a_control_character(make, tmp_path, caplog):
    """Catches a name that clears the screen, sets the window's title, or turns the text round."""
    source = make(tmp_path / "source")

    def listed():
        list_images(open_container(str(source), cache=tmp_path / "cache"), num_test_images=1)

    with caplog.at_level(logging.DEBUG), pytest.raises(PipelineError) as caught:
        listed()
    for text in (str(caught.value), caplog.text):
        assert all(one.isprintable() for one in text.split("\n")), text


def test_what_cannot_be_read_and_what_has_changed_is_named_so_too(tmp_path):
    """Catches the errors of single files, and the list of them."""
    folder = write_folder(tmp_path / "source", {f"{EVIL}.png": PNG})
    opened = open_container(str(folder), cache=tmp_path)
    [entry] = opened.entries(PassedOver())
    os.truncate(folder / f"{EVIL}.png", 1)
    with pytest.raises(PipelineError) as caught:
        opened.read(entry)
    assert str(caught.value).isprintable()
    data = recipe("images").data
    with pytest.raises(PipelineError) as caught:
        require_few_rejected(data, [Rejected(entry.name, "it is empty", 0)], 1, uri=opened.uri)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
