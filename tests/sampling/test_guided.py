"""The section `sample` as wrappers: which reference, at which noise, and what comes after it."""

import numpy as np
import pytest
import torch

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.sigma import sigma_at
from ddpm_core.diffusion.paths.spacing import karras_sigmas
from ddpm_core.diffusion.wrappers.classifier_guidance import Classifier
from ddpm_core.errors import ConfigError
from ddpm_core.inference.build import build_schedule, require_guidance
from ddpm_core.inference.denoiser import load_denoiser, load_guide
from ddpm_core.runs import chosen, layout, places, results
from ddpm_core.sampling import stage
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.sampler import describe
from ddpm_core.sampling.units import first_images
from ddpm_core.verifying.verify import verify
from tests.diffusion.chains import SHORT, normal
from tests.sampling.tiny import commit_earlier, cpu, tiny_config

LABELLED = {"model.conditioning": "label"}
THREE = Conditioning(label=torch.tensor([3]))
NULL = Conditioning(label=torch.tensor([10]))
LATE = torch.full((2,), 40)  # sigma is 1.1 there, and 0.02 at the first step


class Linear:
    """A network of eps that is linear in its label and counts the images passing through it."""

    def __init__(self, slope=0.1):
        self.slope, self.num_images = slope, 0

    def __call__(self, x_t, t, conditioning=NOTHING):
        self.num_images += len(x_t)
        label = 0 if conditioning.label is None else conditioning.label.double()
        return 0.5 * x_t + self.slope * (label + torch.zeros(len(x_t)))[:, None, None, None]


def predicted(x_t, t, given=THREE, weaker=None, **sample):
    """Return the guided prediction, and the calls for each image of both networks."""
    network, other = Linear(), weaker or Linear()
    said = guided(
        NetworkDenoiser(network, SHORT, null=NULL if given.parts else NOTHING),
        given,
        SampleConfig.model_validate(sample),
        None if weaker is None else NetworkDenoiser(weaker, SHORT, null=NULL),
    ).predict(x_t, t)
    return said, network.num_images / len(x_t), other.num_images / len(x_t)


# -- what is put together --------------------------------------------------------------------------


def test_the_reference_is_the_network_without_the_label_or_other_weights_with_it():
    """Catches: a weaker model that is given no label, the two exchanged, and a weaker model beside
    the null."""
    x_t = normal(2, 1, 4, 4)
    said, calls, _ = predicted(x_t, LATE, guidance_scale=3.0)
    torch.testing.assert_close(said.eps, 0.5 * x_t + 0.1 * (10 + 3 * (3 - 10)))
    assert calls == 2
    said, *calls = predicted(x_t, LATE, weaker=Linear(0.2), guidance_scale=3.0, guidance_by="@4")
    torch.testing.assert_close(said.eps, 0.5 * x_t + 3 * (0.2 + 3 * (0.1 - 0.2)))
    assert calls == [1, 1]
    nothing, *calls = predicted(
        x_t, LATE, NOTHING, weaker=Linear(0.2), guidance_scale=3.0, guidance_by="@4"
    )
    torch.testing.assert_close(nothing.eps, 0.5 * x_t)
    assert calls == [1, 1], "also of images of nothing"


def test_outside_the_interval_the_network_is_called_once_and_says_the_same_bits():
    """Catches: an interval of times, one that is turned round, and a reference called in vain."""
    x_t, early = normal(2, 1, 4, 4), torch.tensor([0, 1])
    for t, is_guided in ((LATE, True), (early, False)):
        said, calls, _ = predicted(x_t, t, guidance_scale=3.0, guidance_interval=(0.5, None))
        plain, *_ = predicted(x_t, t)
        assert calls == (2 if is_guided else 1)
        assert torch.equal(said.eps, plain.eps) != is_guided
    below, calls, _ = predicted(x_t, LATE, guidance_scale=3.0, guidance_interval=(0.0, 0.5))
    assert calls == 1
    zero, calls, _ = predicted(x_t, LATE, guidance_scale=0.0, guidance_interval=(0.0, 0.5))
    assert calls == 1
    assert torch.equal(zero.eps, below.eps), "of scale 0 too"


def test_the_threshold_comes_after_the_guidance_and_clipping_changes_nothing_more():
    """Catches: an unguided image that is thresholded, a percentile taken for a share, no cap."""
    x_t, options = 3 * normal(2, 1, 4, 4), {"guidance_scale": 3.0}
    wide = predicted(x_t, LATE, **options)[0].x_0
    said = predicted(x_t, LATE, **options, threshold_percentile=90.0)[0].x_0
    s = torch.quantile(wide.abs().flatten(1), 0.9, dim=1).clamp(min=1)[:, None, None, None]
    assert bool((s > 1.5).all())
    torch.testing.assert_close(said, wide.clamp(-s, s) / s)
    capped = predicted(x_t, LATE, **options, threshold_percentile=90.0, threshold_cap=1.5)[0].x_0
    torch.testing.assert_close(capped, wide.clamp(-1.5, 1.5) / 1.5)


def test_rescaling_is_by_the_share_that_is_given():
    x_t = normal(2, 1, 4, 4)
    own = predicted(x_t, LATE)[0].eps
    half = predicted(x_t, LATE, guidance_scale=3.0, guidance_rescale=1.0)[0].eps
    torch.testing.assert_close(half.flatten(1).std(1), own.flatten(1).std(1))


# -- by a classifier ------------------------------------------------------------------------------


def logits(x_t, t):
    """A classifier of ten classes that tells them by the mean of the image."""
    return 3.0 * x_t.mean(dim=(1, 2, 3))[:, None] * torch.arange(10) + 0 * t[:, None]


def climbed(x_t, given=THREE, null=NOTHING, **sample):
    """Return what a network that takes `null` predicts, guided by the classifier, and unguided."""
    denoiser = NetworkDenoiser(Linear(), SHORT, null=null)
    settings = SampleConfig.model_validate({"guidance_by": "judge", **sample})
    own = denoiser.given(given) if null.parts else denoiser
    followed = guided(denoiser, given, settings, Classifier(logits))
    return followed.predict(x_t, LATE), own.predict(x_t, LATE)


def test_a_classifier_moves_the_mean_of_every_ancestral_step_and_else_the_noise():
    """Catches: the mean of one step taken for that of several, a form that clips what it moved, a
    move that is not clipped before it, scale 1 taken for none."""
    x_t = 2 * normal(2, 1, 4, 4)
    gradient = torch.autograd.functional.jacobian(
        lambda x: logits(x, LATE).log_softmax(1)[:, 3].sum(), x_t
    )
    for scale in (1.0, 2.5):
        said, own = climbed(x_t, guidance_scale=scale)
        clipped = own.reverse(clip_x_0=True)
        moved = clipped.mean + scale * clipped.log_variance.exp() * gradient
        torch.testing.assert_close(said.reverse(clip_x_0=True).mean, moved)
    for changes in ({"sampler": "ddim"}, {"num_steps": 5}, {"sampler": "heun"}):
        said, own = climbed(x_t, guidance_scale=2.5, **changes)
        noise = (1 - SHORT.alphas_cumprod[40]).sqrt()
        torch.testing.assert_close(said.eps, own.eps - 2.5 * noise * gradient)


def test_a_classifier_leads_networks_of_labels_and_of_none():
    """Catches: a label for a network that takes none, none for one that does, and images of no
    class that are led somewhere."""
    x_t, ddim = normal(2, 1, 4, 4), {"sampler": "ddim"}
    unlabelled, labelled = climbed(x_t, **ddim)[0], climbed(x_t, null=NULL, **ddim)[0]
    torch.testing.assert_close(labelled.eps - unlabelled.eps, torch.full_like(x_t, 0.3))
    with pytest.raises(ConfigError, match=r"these images are of none; give sample\.labels"):
        climbed(x_t, given=NOTHING)


def test_a_threshold_comes_before_a_move_of_the_mean_and_after_one_of_the_noise():
    x_t, options = 3 * normal(2, 1, 4, 4), {"guidance_scale": 9.0, "threshold_percentile": 90.0}
    assert float(climbed(x_t, sampler="ddim", **options)[0].x_0.abs().max()) <= 1 + 1e-9
    assert float(climbed(x_t, **options)[0].x_0.abs().max()) > 1.1


# -- what is refused, counted and said ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sample.guidance_interval": [0.3, 3]}, "with guidance_scale=1 there is none"),
        ({"sample.guidance_rescale": 0.7}, "guidance_rescale=0.7 is a setting of guidance"),
        ({"sample.guidance_by": "@200"}, "guidance_by=@200 is a setting of guidance"),
        ({"sample.guidance_by": "@200", "sample.guidance_scale": 0.0}, "the weaker model alone"),
        (
            {"sample.guidance_by": "@10", "sample.guidance_scale": 2.0},
            "not led away from themselves",
        ),
        (
            {
                "sample.guidance_by": "@newest",
                "sample.model": "tiny",
                "sample.guidance_scale": 2.0,
            },
            "not led away from themselves",
        ),
        ({"sample.guidance_by": "a b", "sample.guidance_scale": 2.0}, "names no weights"),
        ({"sample.guidance_scale": 2.0, "sample.guidance_interval": [3, 0.3]}, "0 <= low < high"),
        ({"sample.guidance_scale": 2.0, "sample.guidance_interval": [-1, 3]}, "0 <= low < high"),
        ({"sample.guidance_scale": 2.0, "sample.guidance_interval": [3]}, "two noise levels"),
        ({"sample.guidance_scale": 2.0, "sample.guidance_interval": 3}, "two noise levels"),
        ({"sample.threshold_cap": 2.0}, "threshold_cap=2.0 is a setting of threshold_percentile"),
        (
            {
                "sample.threshold_percentile": 99.5,
                "sample.sampler": "langevin",
                "sample.clip_x_0": False,
            },
            "threshold_percentile is not possible with sampler=langevin",
        ),
    ],
)
def test_a_setting_that_would_do_nothing_or_cannot_be_is_refused(changes, match):
    with pytest.raises(ConfigError, match=match):
        tiny_config(**LABELLED, **changes)


def test_an_interval_without_ends_is_none_and_counts_for_nothing():
    """Catches: two sets of equal samples, and an interval that no fingerprint counts."""
    config = tiny_config(**LABELLED, **{"sample.guidance_scale": 2.0})
    for empty in ([], None, [0, None]):
        same = config.replaced({"sample.guidance_interval": empty})
        assert same == config
    changes = (
        {"sample.guidance_interval": [0.3, 3]},
        {"sample.guidance_interval": [0.3, None]},
        {"sample.guidance_rescale": 0.7},
        {"sample.threshold_percentile": 99.5},
        {"sample.threshold_percentile": 99.5, "sample.threshold_cap": 2.0},
    )
    others = [config.replaced(one) for one in changes]
    assert len({layout.sample_fingerprint(one, "e" * 64) for one in (config, *others)}) == 6


def test_an_interval_in_which_no_step_lies_is_refused_with_the_noise_levels():
    """Catches: guidance that is never applied, and an interval looked for on the whole chain."""
    config = tiny_config(**LABELLED, **{"sample.guidance_scale": 2.0, "sample.sampler": "ddim"})
    require_guidance(config)
    with pytest.raises(ConfigError, match=r"none of the 21 steps, which have sigma from 0"):
        require_guidance(config.replaced({"sample.guidance_interval": [1e30, None]}))
    first = config.replaced({"sample.guidance_interval": [0, 0.1]})
    require_guidance(first)
    with pytest.raises(ConfigError, match="none of the 2 steps"):
        require_guidance(first.replaced({"sample.num_steps": 2}))


def test_an_interval_may_lie_between_the_steps_of_the_chain_where_the_solver_goes():
    """Catches: EDM's levels and those of an adaptive solver looked for among the chain's steps."""
    config = tiny_config(**LABELLED, **{"sample.guidance_scale": 2.0, "sample.sampler": "heun"})
    few = config.replaced({"sample.num_steps": 4})
    sigma = karras_sigmas(build_schedule(config), 4)[2]
    around = {"sample.guidance_interval": [0.99 * sigma, 1.01 * sigma]}
    with pytest.raises(ConfigError, match="none of the 4 steps"):
        require_guidance(few.replaced(around))
    require_guidance(few.replaced({"sample.spacing": "karras", **around}))
    # Of a step between the two that a solver of two steps takes below a depth of ten.
    level = float(sigma_at(build_schedule(config), torch.tensor([2])))
    ode = {"sample.sampler": "ode", "sample.guidance_interval": [0.99 * level, 1.01 * level]}
    with pytest.raises(ConfigError, match="none of the 2 steps"):
        require_guidance(config.replaced(ode), depth=10, num_steps=2)
    adaptive = config.replaced({**ode, "sample.ode_method": "adaptive"})
    require_guidance(adaptive, depth=10, num_steps=2)


def test_what_is_set_is_said_and_nothing_else():
    """Catches: numbers that do not say how their samples were guided, and old ones that change."""
    plain = describe(tiny_config().sample, 21)
    assert not [key for key in plain if key.startswith(("guid", "thresh", "label"))]
    config = tiny_config(
        **{
            "sample.guidance_by": "@5",
            "sample.guidance_scale": 2.0,
            "sample.guidance_interval": [0.3, None],
            "sample.guidance_rescale": 0.5,
            "sample.threshold_percentile": 99.0,
        }
    )
    about = describe(config.sample, 21)
    assert {key: about[key] for key in about if key not in plain} == {
        "guidance_scale": 2.0,
        "guidance_by": "@5",
        "guidance_interval": [0.3, None],
        "guidance_rescale": 0.5,
        "threshold_percentile": 99.0,
        "threshold_cap": None,
    }


# -- from files ------------------------------------------------------------------------------------


def test_an_earlier_step_guides_an_unconditional_run(
    trained, in_process, recording_tracker, capsys
):
    """Catches: a reference that no worker loads, samples of two references in one folder, a digest
    that is not said, and a registered model without its guide."""
    store, config = trained
    made = commit_earlier(store, config, 5)
    few = {"sample.num_images": 4, "sample.num_grid_images": 4}
    config = config.replaced({"sample.guidance_by": "@5", "sample.guidance_scale": 2.0, **few})
    with pytest.raises(ConfigError, match="=label or sample"):
        config.replaced({"sample.guidance_by": None})
    stage.run_sample(store, config)
    digest = made.files["ema"].sha256
    assert f", guided by tiny@5:ema {digest[:12]}" in capsys.readouterr().out
    samples = results.samples_of(store, config)
    assert (samples.body["guide"], samples.body["guide_sha256"]) == ("tiny@5:ema", digest)
    assert samples.body["guidance_by"] == f"tiny@5:ema#{digest[:16]}"
    raw = config.replaced({"sample.guidance_by": "@5:raw"})
    assert places.samples(store, raw, chosen.require(store, raw)).folder != samples.folder

    weights = chosen.require(store, config)
    denoiser = load_denoiser(store, config, weights.checkpoint, cpu())
    weaker = load_guide(store, weights, cpu())
    positions = torch.arange(2)
    followed = guided(denoiser, NOTHING, config.sample, weaker)
    x_0 = draw(followed, positions, config.data.shape, sample=config.sample, seed=0)
    found = first_images(store, samples, config.sample, config.data.shape, 2)
    assert np.array_equal(found, to_u8(x_0).numpy())
    plain = draw(denoiser, positions, config.data.shape, sample=config.sample, seed=0)
    assert not np.array_equal(found, to_u8(plain).numpy())

    assert not [one for one in verify("tiny", root=store.uri).unfinished if "samples" in one]
