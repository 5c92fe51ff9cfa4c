"""The towers of CLIP: against `transformers`, and by what they may not depend on."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from ddpm_core.conditioning import Conditioning, Text
from ddpm_core.errors import CheckpointError, ConfigError, DataError
from ddpm_core.inference.networks import build_network
from ddpm_core.models.blocks import initialise
from ddpm_core.models.clip import ImageTower
from ddpm_core.models.clip_interop import (
    image_from_transformers,
    image_to_transformers,
    text_from_transformers,
    text_to_transformers,
)
from ddpm_core.models.text_encoder import TextEncoder, at_end
from ddpm_core.recipes import recipe
from ddpm_core.text.tokens import END, NUM_TOKENS, PAD, encode
from tests.diffusion.chains import normal

SMALL = {
    "kind": "clip",
    "patch_size": 4,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "text_hidden_size": 24,
    "text_num_layers": 2,
    "text_num_heads": 2,
    "num_features": 16,
    "text_length": 20,
}
SEED = torch.Generator().manual_seed


def clip(**changes):
    return build_network(recipe("digits").replaced({"model": {**SMALL, **changes}})).eval()


def shaken(module):
    """Return the module with other weights, of which none is 0 or 1."""
    generator = SEED(3)
    with torch.no_grad():
        for param in module.parameters():
            param.add_(0.2 * torch.randn(param.shape, generator=generator))
    return module.eval()


def text_tower(**changes):
    tower = TextEncoder(
        **{"length": 12, "width": 24, "num_layers": 2, "num_heads": 2, "causal": True} | changes
    )
    initialise(tower, SEED(0))
    return shaken(tower)


@pytest.mark.parametrize("quick", [False, True])
def test_the_tower_of_texts_is_that_of_transformers(quick):
    """Catches: norms that come after, another activation, a mask that lets later tokens be seen,
    another scale of the attention, the state of the last position instead of the end's."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tower = text_tower(quick=quick)
    config = CLIPTextConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=24,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        hidden_act="quick_gelu" if quick else "gelu",
        bos_token_id=0,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    theirs = CLIPTextModel(config).eval()
    weights = dict(tower.named_parameters())
    theirs.load_state_dict(text_to_transformers(weights))
    text = encode(["the digit 7", "", "ein Bär"], 12)
    with torch.no_grad():
        found, states = theirs(input_ids=text.tokens), tower(text)
    torch.testing.assert_close(states, found.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(at_end(text, states), found.pooler_output, rtol=0, atol=1e-5)
    back = text_from_transformers(theirs.state_dict(), weights)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_the_tower_of_clean_images_is_that_of_transformers():
    """Catches: a patch read in another order, a class token behind the patches or without a place,
    a norm before the transformer that is not there, a state that is not that token's."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tower = clip(noised=False).image
    weights = {k: v for k, v in shaken(tower).named_parameters() if not k.startswith("proj_out")}
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_channels=1,
        image_size=8,
        patch_size=4,
        hidden_act="gelu",
    )
    theirs = CLIPVisionModel(config).eval()
    theirs.load_state_dict(image_to_transformers(weights, patch_size=4))
    images = normal(3, 1, 8, 8).float()
    with torch.no_grad():
        pooled = theirs(pixel_values=images).pooler_output
        found = tower(images, torch.zeros(3))
    wanted = normalize(pooled @ tower.proj_out.weight.T, dim=1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    back = image_from_transformers(theirs.state_dict(), weights, patch_size=4)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_a_tower_of_noised_images_is_none_of_transformers():
    weights = dict(clip().image.named_parameters())
    with pytest.raises(CheckpointError, match=r"'time_embed\..*is no parameter"):
        image_to_transformers(weights, patch_size=4)


def test_what_is_behind_the_end_of_a_text_says_nothing():
    """Catches: padding that is attended to, and states that look ahead."""
    tower = text_tower()
    text = encode(["one", "a longer one"], 12)
    other = Text(text.tokens.where(text.mask, 77), text.mask)
    with torch.no_grad():
        states, others = tower(text), tower(other)
        torch.testing.assert_close(states[text.mask], others[text.mask])
        text.tokens[0, 2] = 200
        changed = tower(text)
    assert torch.equal(changed[0, :2], states[0, :2])
    assert not torch.equal(changed[0, 2], states[0, 2])


def test_noised_images_are_told_their_time_and_clean_ones_have_none():
    """Catches: a time that does not arrive, and one that reaches a tower that never saw any."""
    images, t = normal(2, 1, 8, 8).float(), torch.tensor([3.0, 150.5])
    with torch.no_grad():
        noised, clean = shaken(clip()).image, shaken(clip(noised=False)).image
        assert not torch.allclose(noised(images, t), noised(images, t + 20), atol=1e-4)
        assert torch.equal(clean(images, t), clean(images, t + 20))


def test_features_have_length_1_in_float32_and_belong_to_image_and_text():
    """Catches: features that are not normalised, rounded to bfloat16, or in the other order."""
    network = clip()
    images, t = normal(2, 1, 8, 8).float(), torch.tensor([3, 150])
    text = encode(["one", "two"], 20)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            short = network(images, t, Conditioning(text=text))
        found = network(images, t, Conditioning(text=text))
        assert short.dtype == torch.float32
        torch.testing.assert_close(short.norm(dim=2), torch.ones(2, 2))
        torch.testing.assert_close(found[:, 0], network.image(images, t))
        torch.testing.assert_close(found[:, 1], network.of_text(text))
        assert float(network.scale) == pytest.approx(1 / 0.07)


def test_the_scale_is_held_at_100():
    """Catches: a bound on its logarithm, and one that holds it below."""
    network = clip()
    for value, held in ((99.0, 99.0), (101.0, 100.0), (1e4, 100.0)):
        with torch.no_grad():
            network.log_scale.fill_(math.log(value))
        network.bound_scale()
        assert float(network.scale.detach()) == pytest.approx(held)


@pytest.mark.parametrize("noised", [True, False])
def test_its_parameters_are_counted(noised):
    """Catches: a number in the dry run, and a bound on it, of another network."""
    config = recipe("digits").replaced({"model": {**SMALL, "noised": noised}})
    assert sum(one.numel() for one in build_network(config).parameters()) == config.num_parameters


def test_what_does_not_fit_is_refused():
    network, t = clip(), torch.zeros(1)
    images, text = torch.zeros(1, 1, 8, 8), encode([""], 20)
    with pytest.raises(ConfigError, match=r"texts of 12 tokens were given to an encoder of .* 20"):
        network(images, t, Conditioning(text=encode([""], 12)))
    with pytest.raises(ConfigError, match="images of 8x4 pixels were given"):
        network(images[..., :4], t, Conditioning(text=text))
    with pytest.raises(DataError, match="CLIP takes text and was called with no conditioning"):
        network(images, t)
    sizes = {"in_channels": 1, "image_size": (8, 8), "num_layers": 1, "num_features": 4}
    with pytest.raises(ConfigError, match="cannot be cut into patches of 3"):
        ImageTower(**sizes, patch_size=3, width=16, num_heads=1, noised=True)
    with pytest.raises(ConfigError, match=r"16 features .* cannot be shared out to 3 heads"):
        ImageTower(**sizes, patch_size=4, width=16, num_heads=3, noised=True)
