"""The section `data` of several data sets together."""

import pytest

from ddpm_core.config import DataConfig, identity
from ddpm_core.config.joined import joined, section_of
from ddpm_core.errors import ConfigError

IN_PLACE = identity.data(DataConfig(name="images", source="/gone", in_place=True))


def test_data_sets_of_which_one_has_captions_have_some_together():
    """Catches a union whose captions no network may read, since the first set has none."""
    plain = identity.data(DataConfig(name="images"))
    for key, value in (("captions", "beside"), ("captions", "table")):
        own = identity.data(DataConfig(name="images", **{key: value}))
        assert joined({"a@0": plain, "b@1": own})["captions"] == "beside"
        assert joined({"a@0": own, "b@1": own})["captions"] == value
    assert joined({"a@0": plain, "b@1": plain})["captions"] == "none"


def test_images_in_place_go_with_others_and_need_no_source():
    """Catches: a rule of what is still to be made, for what is there already."""
    assert section_of(IN_PLACE).in_place
    same = joined({"a@0": IN_PLACE, "b@1": IN_PLACE})
    assert (same["in_place"], same["sets"], same["source"]) == (True, None, "default")
    other = joined({"a@0": IN_PLACE, "b@1": identity.data(DataConfig(name="images"))})
    assert (other["name"], other["in_place"], other["height"]) == ("images", False, 8)
    with pytest.raises(ConfigError, match="of 3x8x8 uint8 images and b@1 of 1x8x8 uint8"):
        joined({"a@0": IN_PLACE, "b@1": identity.data(DataConfig(name="images", grey=True))})
