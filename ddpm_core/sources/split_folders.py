"""Which top folders are the splits of a collection, by their names and by the classes in them.

train/ test/               also training/ testing/, and val/, valid/, validation/ for the test
train2017/ val2017/        also cars_train/ cars_test/: the same name but for the split's word,
                           if every top folder is named so
train/                     alone is no split: the images in it are all there are
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ddpm_core.errors import DataError
from ddpm_core.images.names import quoted, text_of
from ddpm_core.progress import WARNING

TRAIN_FOLDERS = (b"train", b"training")
TEST_FOLDERS = (b"test", b"testing", b"val", b"valid", b"validation")
"""The first of these that fits is the test split; the others are passed over."""
_WORD = re.compile(rb"(?<![a-z])(%b)(?![a-z])" % b"|".join((*TRAIN_FOLDERS, *TEST_FOLDERS)))
NO_CLASS = b""
_NUM_SHOWN = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitFolders:
    """The names of both, in small letters."""

    train: bytes
    test: bytes


def find_split_folders(
    tops: Mapping[bytes, set[bytes]], *, has_classes: bool, uri: str
) -> SplitFolders | None:
    """Return the folders of the two splits, or None if there are none.

    Args:
        tops: top folder in small letters -> the folders in it, `NO_CLASS` for images beside them.
        has_classes: whether those folders are classes.
        uri: of the collection, for an error.

    Raises:
        DataError: only a test split is there, or none of its classes is in the training split.
    """
    found = _exact(tops) or _alike(tops)
    if found is None:
        if len(tops) == 1 and tops.keys() <= set(TEST_FOLDERS):
            only = text_of(next(iter(tops)))
            raise DataError(
                f"{uri} holds the folder {only}/ and no other; it must hold train/ and one of "
                f"test/, val/, valid/ and validation/. Add the other, or give what lies in {only}/ "
                "as data.source, of which a tenth is held out, or data.num_test_images"
            )
        if has_classes:
            _warn_of_odd_classes(tops)
        return None
    train, tests = found
    if has_classes:
        fitting = [test for test in tests if tops[train] == {NO_CLASS} or tops[test] & tops[train]]
        if not fitting:
            # Several folders are classes of their own; one folder, or none, holds images without.
            fitting = [test for test in tests if len(tops[test] - {NO_CLASS}) > 1]
            if not fitting:
                raise _no_class_in_common(train, tests[0], tops, uri)
            _log.warning(
                "%sthe classes of %s are others than those of %s",
                WARNING,
                quoted(text_of(fitting[0])),
                quoted(text_of(train)),
            )
        tests = fitting
    return SplitFolders(train, tests[0])


def _exact(tops: Mapping[bytes, set[bytes]]) -> tuple[bytes, list[bytes]] | None:
    trains = [name for name in TRAIN_FOLDERS if name in tops]
    tests = [name for name in TEST_FOLDERS if name in tops]
    return (trains[0], tests) if trains and tests else None


def _alike(tops: Mapping[bytes, set[bytes]]) -> tuple[bytes, list[bytes]] | None:
    """Return folders that differ in the word of the split alone, if all are named so."""
    words: dict[bytes, bytes] = {}
    rests = set()
    for name in tops:
        found = _WORD.findall(name)
        if len(found) != 1:
            return None
        words.setdefault(found[0], name)
        rests.add(_WORD.sub(b"", name))
    trains = [words[word] for word in TRAIN_FOLDERS if word in words]
    tests = [words[word] for word in TEST_FOLDERS if word in words]
    if len(rests) != 1 or len(words) != len(tops) or not trains or not tests:
        return None
    return trains[0], tests


def _no_class_in_common(
    train: bytes, test: bytes, tops: Mapping[bytes, set[bytes]], uri: str
) -> DataError:
    names = sorted(tops[test] - {NO_CLASS})[:_NUM_SHOWN]
    what = "images in no folder" if not names else _shown(names)
    return DataError(
        f"{uri}: {quoted(text_of(test))} holds none of the classes of {quoted(text_of(train))}, "
        f"but {what}; are its images without labels? Give {quoted(text_of(train))} itself as "
        "data.source, of which a tenth is held out, or take the classes for one with "
        "data.class_folders=False"
    )


def _warn_of_odd_classes(tops: Mapping[bytes, set[bytes]]) -> None:
    """Log a warning about folders that are taken for classes, and may be meant otherwise."""
    names = sorted(tops.keys() - {NO_CLASS})
    if len(names) < 2:
        return
    widths = {len(name) for name in names}
    if all(name.isdigit() for name in names) and len(widths) == 1 and widths.pop() > 2:
        _log.warning(
            "%sthe folders %s are taken for %d classes; if they only divide the files, set "
            "data.class_folders=False",
            WARNING,
            _shown(names),
            len(names),
        )
    elif any(_WORD.search(name) for name in names):
        _log.warning(
            "%sthe folders %s are taken for classes, not for splits, which would be called train "
            "and test",
            WARNING,
            _shown(names),
        )


def _shown(names: list[bytes]) -> str:
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(quoted(text_of(name)) for name in names[:_NUM_SHOWN]) + more
