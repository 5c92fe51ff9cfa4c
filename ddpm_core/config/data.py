"""The section `data`: which images, and how they are cut into shards."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from ddpm_core.config.captions import (
    DEFAULT_TEMPLATES,
    KEYS_OF_CLASSES,
    Captions,
    require_captions_fit,
)
from ddpm_core.config.data_ref import DataSets, is_folder_name
from ddpm_core.config.section import PLACE, RUN_NAME_PATTERN, PositiveInt, Section

Made = Literal["heartbeat", "swiss_roll"]
"""data sets that are made, not read: 20 bits of two levels, and points of two coordinates"""
Bundle = Literal["digits", "coloured_digits", "mnist", "fashion_mnist", "cifar10", Made]
"""data sets of a fixed size and shape, in published files or made"""
Collection = Literal["images", "celebahq", "lsun_bedroom", "lsun_church", "lsun_cat"]
"""images as files, in a folder, an archive or a database, of any number and size"""

# What a bundle is by itself: channels, and height and width before padding.
_NATIVE_SHAPES: dict[str, tuple[int, int, int]] = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "heartbeat": (1, 1, 20),
    "swiss_roll": (1, 1, 2),
    "coloured_digits": (3, 8, 8),
}
_NUM_CLASSES = {"heartbeat": 5, "swiss_roll": 1, "coloured_digits": 60}
"""of bundles that have not ten"""
_NUM_DIGITS = 1797
_OF_SKLEARN = ("digits", "coloured_digits")
_NUM_TEST_IMAGES = 10_000
"""of the canonical test splits of the others; the training splits are never touched"""
_NUM_OWN_TEST = {"heartbeat": 500, "swiss_roll": 2000, "coloured_digits": 1782}
_OF_COLLECTIONS = (
    *("grey", "crop", "resize", "background", "encoding", "class_folders", "depth"),
    *("in_place", "pin", "label_key", "min_side"),
)
"""keys that say what becomes of image files"""
_OF_MAKING = ("source", "source_sha256", "set_name", "licence", "caption_table")
"""keys that say from what, and as what, a data set is made"""

_ALL: Mapping[str, Any] = {
    "only_classes": (),
    "only_keys": None,
    "only_keys_sha256": None,
    "duplicates": "keep",
}
"""keys that leave images out -> the value with which all are used"""

Byte = Annotated[int, Field(ge=0, le=255)]


class DataConfig(Section):
    """The images, and how they are cut into shards."""

    name: Literal[Bundle, Collection] = "digits"
    """data set: scikit-learn's bundled digits, the same in six colours (coloured_digits), MNIST,
    Fashion-MNIST, CIFAR-10; one that is made: heartbeat, swiss_roll; or a collection of image
    files: images (any), celebahq, lsun_bedroom, lsun_church, lsun_cat"""
    source: Annotated[str, PLACE] = "default"
    """where the raw data lie: a folder, an archive, an LMDB export, shards; a path, s3:// or
    https:// URI; or 'default' (bundled, else the canonical download; a collection has none);
    does not change what is made of them, so it is in no fingerprint"""
    source_sha256: Annotated[str | None, PLACE] = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the archive at `source`, 64 digits 0-9 and a-f; required for https://"""
    sets: Annotated[str | None, PLACE] = None
    """data sets that are there already, in place of `source`: NAME, or NAME@ and the beginning of
    its fingerprint, as `datasets list` says; the other keys of `data` are then theirs"""
    append_to: Annotated[str | None, PLACE] = None
    """data set of that name that grows: of the images at `source` those that it has not are made
    into further shards; its name then means both, and NAME@FINGERPRINT what it was"""
    set_name: Annotated[str | None, PLACE] = Field(None, pattern=RUN_NAME_PATTERN)
    """name under which the data set can be used by other runs; null: the run's, of a collection,
    or `name`, as long as no other has it"""
    licence: Annotated[str | None, PLACE] = Field(None, max_length=2000)
    """note on what may be done with the images, kept beside the name of the data set"""
    height: PositiveInt = 8
    """rows of an image, in pixels; smaller originals of a bundle are padded with black around the
    centre and larger ones made small by the mean over areas, those of a collection are cropped and
    resized"""
    width: PositiveInt = 8
    """columns of an image, in pixels; as height"""
    grey: bool = False
    """of a collection: one channel instead of red, green and blue"""
    crop: Literal["center", "none"] = "center"
    """of a collection: cut to the shape of height x width around the centre, or refuse others"""
    resize: Literal["box", "lanczos"] = "box"
    """of a collection: mean over the area of a pixel (box), or Lanczos' filter, which is sharper"""
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    """of a collection: red, green and blue behind what is transparent, 0 to 255"""
    encoding: Literal["png", "original"] = "png"
    """of a collection: shards hold uncompressed PNG, or the files as they are where they already
    have the size and the channels"""
    depth: Literal[8, 16] = 8
    """of a collection: bits of each sample; 16 keeps grey PNG files of 16 bits whole, and takes
    8-bit files times 257; needs grey=True, encoding=png and resize=box. swiss_roll has 16"""
    class_folders: bool = True
    """of a collection: folders are classes; else there is one class"""
    in_place: bool = False
    """of a collection: use the WebDataset shards at source where they lie, without a copy: an index
    of them is made, and images are decoded, cut and resized whenever they are read"""
    pin: Literal["sha256", "listing"] = "sha256"
    """of in_place=True: by what a shard is known again. sha256: each is read once, its digest taken
    and its image files looked at; listing: its length, and the ETag of its bucket or the time of
    its last change: only the headers of the tars are read"""
    label_key: str | None = Field(None, min_length=1, max_length=100)
    """of in_place=True: the key of a sample's .json that holds the number of its class; null: its
    .cls says it, or there are no classes"""
    captions: Captions = "none"
    """what each image shows, in words. beside: NAME.txt beside NAME.png, a caption a line; in
    shards the sample's .txt, .caption or .text; of coloured_digits their own. table: captions.csv,
    captions.jsonl or metadata.jsonl within the source, or caption_table. classes: made from the
    names of the classes while they are read, by caption_templates"""
    caption_table: Annotated[str | None, PLACE] = Field(None, min_length=1)
    """of captions=table: file on this machine, .csv or .jsonl, with the columns file_name and text,
    in place of one within the source; the names are those below the source"""
    caption_key: str | None = Field(None, min_length=1, max_length=100)
    """of captions=beside: the key of NAME.json that holds the caption, or a list of them; null: it
    is the text of NAME.txt"""
    caption_templates: tuple[str, ...] = DEFAULT_TEMPLATES
    """of captions=classes: texts in which {name} stands for the name of the class; training draws
    one for each image of each step, measuring takes the first"""
    on_bad: Annotated[Literal["few", "fail", "skip"], PLACE] = "few"
    """of a collection: what to do about files that cannot be used. few: leave out up to
    max_bad_share of all, and keep the list with the data set; skip: the same, and files that are no
    images by their names do not count; fail: end with a list of them"""
    max_bad_share: Annotated[float, PLACE] = Field(0.01, ge=0, lt=1)
    """share of the files that may be left out by on_bad=few and on_bad=skip"""
    max_megapixels: Annotated[int, PLACE] = Field(64, ge=16, le=1024)
    """of a collection: pixels, in units of 2^20, of the largest image that is decoded; a worker
    takes up to 21 bytes of memory for each"""
    recheck: Annotated[bool, PLACE] = False
    """of a collection: read every file of the source, also those that have not changed by their
    sizes and times since an earlier run read them; said to one command, and not kept in run.json"""
    num_test_images: PositiveInt | None = None
    """images held out of training; null keeps the data set's own split, and holds out a tenth, at
    most 1000, of a collection that has none (digits need a number)"""
    images_per_shard: PositiveInt = 1000
    """images in one tar"""
    min_side: PositiveInt | None = None
    """of a collection: pixels that the shorter side of an original has at least; smaller ones are
    left out, which is no error, and are listed with the data set. null for any"""
    only_classes: tuple[int | str, ...] = ()
    """classes whose images are used, by name or number, as ["cat", 3]; the others are left out, and
    these keep their order and are numbered anew. [] for all"""
    only_keys: Annotated[str | None, PLACE] = None
    """file with the keys of the images that are used, a line each: their names at the source below
    the folder that everything lies in, or in the shards (train-00000000)"""
    only_keys_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file `only_keys`, 64 digits 0-9 and a-f"""
    duplicates: Literal["keep", "drop"] = "keep"
    """what becomes of images whose files in the shards are equal: drop leaves all but the first
    out, in the order of their keys, and of training images those that are held out too"""

    @property
    def is_collection(self) -> bool:
        """Whether the images are files of any number and size."""
        return self.name in get_args(Collection)

    @property
    def is_made(self) -> bool:
        """Whether the images are made, not read."""
        return self.name in get_args(Made)

    @property
    def is_binary(self) -> bool:
        """Whether all values are 0 or 255."""
        return self.name == "heartbeat"

    @property
    def max_pixels(self) -> int:
        """Pixels of the largest image that is decoded."""
        return self.max_megapixels * 2**20

    @property
    def channels(self) -> int:
        if self.is_collection:
            return 1 if self.grey else 3
        return _NATIVE_SHAPES[self.name][0]

    @property
    def dtype(self) -> Literal["uint8", "uint16"]:
        """The data type of an image's samples."""
        return "uint8" if self.depth == 8 else "uint16"

    @property
    def num_levels(self) -> int:
        """Values that a sample can have: 256 or 65536, from -1 to 1 where a network sees them."""
        return int(2**self.depth)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (self.channels, self.height, self.width)

    @property
    def is_part(self) -> bool:
        """Whether images may be left out of what was made, which stays as it is."""
        return bool(self.only_classes or self.only_keys_sha256) or self.duplicates == "drop"

    @property
    def whole(self) -> Self:
        """The same with all images: what was made of the source."""
        return self.model_copy(update=dict(_ALL))

    @property
    def num_classes(self) -> int | None:
        """Classes that there are; None: only the files of a collection tell."""
        if self.only_classes and not self.is_collection:
            return len(self.only_classes)
        return None if self.is_collection else _NUM_CLASSES.get(self.name, 10)

    @property
    def max_test_images(self) -> int | None:
        """Images held out, at most: a folder may hold less than the published files. None: any."""
        if self.append_to is not None:  # what grows has its own beside
            return None
        if self.num_test_images is not None or self.is_collection:
            return self.num_test_images
        return _NUM_OWN_TEST.get(self.name, _NUM_TEST_IMAGES)

    @property
    def unused(self) -> tuple[str, ...]:
        """Keys that this data set has no use for: they do not say what it is."""
        of_classes = KEYS_OF_CLASSES if self.captions == "classes" else ()
        if self.in_place:  # no shards are made
            return ("encoding", "images_per_shard", "class_folders", *of_classes)
        return of_classes if self.is_collection else (*_OF_COLLECTIONS, *of_classes)

    @property
    def has_captions(self) -> bool:
        """Whether the data set holds captions of its images."""
        return self.captions in ("beside", "table")

    @property
    def references(self) -> DataSets | None:
        """The data sets that `sets` names."""
        return None if self.sets is None else DataSets.parse(self.sets)

    @field_validator("sets")
    @classmethod
    def _sets_are_references(cls, sets: str | None) -> str | None:
        try:
            return None if sets is None else str(DataSets.parse(sets))
        except ValueError as error:
            raise ValueError(f"sets={sets!r} {error}") from None

    @model_validator(mode="after")
    def _what_grows_has_a_name(self) -> Self:
        for key in ("sets", "set_name") if self.append_to is not None else ():
            if getattr(self, key) is not None:
                raise ValueError(
                    f"append_to={self.append_to!r} lets that data set grow under its own name, and "
                    f"{key}={getattr(self, key)!r} names another; leave out one of the two"
                )
        return self

    @field_validator("set_name")
    @classmethod
    def _set_name_is_no_folder(cls, name: str | None) -> str | None:
        if name is not None and (is_folder_name(name) or name.endswith(".") or ".." in name):
            raise ValueError(
                f"set_name={name!r} may not end in a dot, contain two in a row, or end in a dash "
                "and 16 hex digits, as the folders of data sets do; give another"
            )
        return name

    @model_validator(mode="after")
    def _sets_are_made(self) -> Self:
        for key in _OF_MAKING if self.sets is not None else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key}={getattr(self, key)!r} says how a data set is made, and sets="
                    f"{self.sets!r} names what is made already; leave out one of the two"
                )
        return self

    @field_validator("only_classes", mode="before")
    @classmethod
    def _classes_are_numbers_and_names(cls, value: Any) -> Any:  # noqa: ANN401 - not checked yet
        if not isinstance(value, list | tuple) or any(type(one) not in (int, str) for one in value):
            raise ValueError(
                f"only_classes={json.dumps(value, default=str)[:100]} must be a list of classes, "
                'each by its name or number, e.g. ["cat", 3]'
            )
        if len(set(value)) < len(value):
            raise ValueError(f"only_classes={json.dumps(value)[:100]} says a class twice")
        return tuple(value)

    @model_validator(mode="after")
    def _list_is_pinned(self) -> Self:
        if self.only_keys is not None and self.only_keys_sha256 is None:
            raise ValueError(
                f"only_keys={self.only_keys!r} is a file and only_keys_sha256 is not given, so "
                "another list could take its place unnoticed; give the digest that sha256sum says"
            )
        return self

    @field_validator("caption_templates", mode="before")
    @classmethod
    def _templates_are_texts(cls, value: Any) -> Any:  # noqa: ANN401 - not checked yet
        if not isinstance(value, list | tuple) or any(type(one) is not str for one in value):
            raise ValueError(
                f"caption_templates={json.dumps(value, default=str)[:100]} must be a list of "
                'texts, e.g. ["a picture of {name}"]'
            )
        return tuple(value)

    @model_validator(mode="after")
    def _captions_fit(self) -> Self:
        require_captions_fit(self)
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.is_collection:
            return self
        _, height, width = _NATIVE_SHAPES[self.name]
        if self.is_made and (self.height, self.width) != (height, width):
            raise ValueError(
                f"height={self.height}, width={self.width}, but {self.name} is made of "
                f"{height}x{width} values, and nothing around them; give these"
            )
        is_smaller = self.height < height or self.width < width
        if is_smaller and (self.height > height or self.width > width):
            raise ValueError(
                f"height={self.height}, width={self.width} is smaller than {self.name}'s own "
                f"{height}x{width} on one side and larger on the other; images are padded, or made "
                "small, and never cropped: give two sides of one kind"
            )
        return self

    @model_validator(mode="after")
    def _depth_is_kept(self) -> Self:
        if self.name == "swiss_roll" and self.depth != 16:
            raise ValueError(
                "depth=8, but the coordinates of swiss_roll have 16 bits each; give depth=16"
            )
        kept = self.grey and self.encoding == "png" and self.resize == "box"
        if self.depth == 16 and self.is_collection and not kept:
            raise ValueError(
                f"depth=16 with grey={self.grey}, encoding={self.encoding}, resize={self.resize}: "
                "16 bits are kept of grey images alone, as PNG, and resized by box; give "
                "grey=True, encoding=png and resize=box, or depth=8"
            )
        return self

    @model_validator(mode="after")
    def _held_out_images_exist(self) -> Self:
        wanted = self.num_test_images
        if self.is_collection:
            return self
        if self.name != "digits":
            there = _NUM_OWN_TEST.get(self.name, _NUM_TEST_IMAGES)
            if wanted is not None and wanted > there:
                raise ValueError(
                    f"num_test_images={wanted}, but {self.name} holds out images of its test "
                    f"split only, which has {there}; give at most that, or null for all of them"
                )
        elif wanted is None:
            raise ValueError(
                "num_test_images=null, but digits has no split of its own; give a number, e.g. 297"
            )
        elif wanted >= _NUM_DIGITS:
            raise ValueError(
                f"num_test_images={wanted} leaves nothing to train on: digits has {_NUM_DIGITS} "
                "images; hold out fewer"
            )
        return self

    @model_validator(mode="after")
    def _bundled_data_have_no_source(self) -> Self:
        if (self.name in _OF_SKLEARN or self.is_made) and self.source != "default":
            how = "made here" if self.is_made else "bundled with scikit-learn"
            raise ValueError(
                f"source={self.source!r}, but {self.name} is {how}; give 'default', or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _shards_stay_as_they_are(self) -> Self:
        if not self.in_place:
            for key, default in (("pin", "sha256"), ("label_key", None)):
                if (value := getattr(self, key)) != default:
                    raise ValueError(f"{key}={value} is a setting of in_place=True; leave it out")
            return self
        if self.depth != 8 or not self.class_folders:
            key = "depth" if self.depth != 8 else "class_folders"
            raise ValueError(
                f"{key}={getattr(self, key)}, and in_place=True reads images of 8 bits and classes "
                f"of the samples in shards; leave {key} out, or in_place"
            )
        if self.min_side is not None:
            raise ValueError(
                f"min_side={self.min_side} leaves images out while shards are made, and with "
                "in_place=True none are made; leave out one of the two"
            )
        if self.duplicates == "drop" or self.only_keys_sha256 is not None:
            key = "duplicates=drop" if self.duplicates == "drop" else "only_keys"
            raise ValueError(
                f"{key} goes by the files of shards that were made under this root, and with "
                "in_place=True none are made; leave out one of the two"
            )
        if self.sets is not None:  # which was indexed from its source
            return self
        if self.source == "default" or self.source_sha256 is not None:
            raise ValueError(
                "in_place=True needs source: a folder of tars, a pattern such as "
                "/data/{000000..000999}.tar, or the JSON list of wids; and no source_sha256"
            )
        return self

    @model_validator(mode="after")
    def _knobs_belong_to_collections(self) -> Self:
        knobs = (*_OF_COLLECTIONS, "on_bad", "max_bad_share", "max_megapixels", "recheck")
        for key in () if self.is_collection else knobs:
            value, default = getattr(self, key), type(self).model_fields[key].default
            # run.json files of bundles say on_bad=fail, which was the default.
            own = [("on_bad", "fail"), *([("depth", 16)] if self.name == "swiss_roll" else [])]
            if value != default and (key, value) not in own:
                raise ValueError(
                    f"{key}={value} is a setting of collections of image files "
                    f"({', '.join(get_args(Collection))}) and {self.name} has no use for it; leave "
                    f"{key} out"
                )
        return self
