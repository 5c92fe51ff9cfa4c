"""A chain of bits in a configuration: what goes with it, and what is refused before it starts."""

import pytest

from ddpm_core.config import BinomialConfig, identity
from ddpm_core.errors import ConfigError
from ddpm_core.preflight import require_images
from ddpm_core.recipes import ablations, digits, recipe
from ddpm_core.shards.one_class import why_no_distance

HEARTBEAT = recipe("heartbeat")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"train.loss": "simple"}, "train.loss=simple does not go with diffusion.kind=binomial"),
        ({"sample.sampler": "ddim"}, "all steps of sample.sampler=ancestral"),
        ({"sample.num_steps": 50}, "with sample.num_steps=null"),
        ({"sample.clip_x_0": False}, "nothing to clip: leave it out"),
        (
            {"model.conditioning": "label", "sample.guidance_scale": 2.0},
            "no guidance: sample.guidance_scale=1",
        ),
        ({"sample.threshold_percentile": 99.5}, "leave sample.threshold_percentile out"),
        (
            {
                "model.conditioning": "label",
                "sample.guidance_scale": 0.0,
                "sample.guidance_interval": [0.3, 3],
            },
            "leave sample.guidance_interval out",
        ),
        ({"diffusion.beta_schedule": "jsd"}, "is a key of diffusion.kind=chain"),
        ({"train.preview_every": 100}, "previews are of images"),
        ({"model.known": True}, "model.kind=mlp takes no mask"),
        ({"model.kind": "dit", "model.patch_size": 1, "model.known": True}, "no known part: leave"),
        ({"data.height": 2}, "made of 1x20 values, and nothing around them"),
        ({"data.source": "bits.zip"}, "heartbeat is made here; give 'default'"),
        ({"data.depth": 16}, "depth=16 is a setting of collections"),
        ({"data.num_test_images": 501}, "its test split only, which has 500"),
    ],
)
def test_what_bits_have_no_use_for_is_refused(changes, rule):
    """Catches: a knob that is taken and ignored, or a crash of the stage that meets it."""
    with pytest.raises(ConfigError, match=rule):
        HEARTBEAT.replaced(changes)


def test_bits_are_not_made_of_grey_values():
    """Catches: a chain of bits on images of 256 levels, whose bound is that of nothing."""
    bits = {"diffusion.kind": "binomial", "train.loss": "vlb", "train.weighting": "none"}
    with pytest.raises(ConfigError, match=r"data\.name=digits does not go .* images of two levels"):
        digits().replaced(bits)


def test_what_is_measured_of_pictures_is_refused_in_a_sentence():
    """Catches: a study or an ablation that crashes, and a feature network trained on 20 bits."""
    with pytest.raises(ConfigError, match="study measures what images are on their way"):
        require_images(HEARTBEAT, ["evaluate", "study"])
    require_images(HEARTBEAT, ["shard", "train", "sample", "evaluate"])
    require_images(digits(), ["study"])
    with pytest.raises(ConfigError, match=r"diffusion.kind=binomial is another process"):
        ablations(HEARTBEAT)
    assert "no set of pictures" in str(why_no_distance(HEARTBEAT, None))
    assert why_no_distance(digits(), None) is None


def test_the_length_of_the_chain_counts():
    """Catches: two chains of bits under one fingerprint, and one that a chain of images shares."""
    counted = identity.experiment(HEARTBEAT)["diffusion"]
    assert counted == {"kind": "binomial", "num_timesteps": 200}
    assert HEARTBEAT.replaced({"diffusion.num_timesteps": 50}).diffusion == BinomialConfig(
        num_timesteps=50
    )
