"""Try a feature network from outside before anything is trained that it is to measure.

The file is fetched, its digest compared, and two images go through it: what it cannot do would
otherwise show at the end, in an actor, and what it should not do would not show at all.
"""

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.config import RunConfig
from ddpm_core.config.feature_networks import known_by
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.evaluation.distances.scores import inception_score
from ddpm_core.evaluation.features import foreign
from ddpm_core.evaluation.features.foreign import Foreign
from ddpm_core.evaluation.features.network import FeatureNetwork, looked_at
from ddpm_core.evaluation.features.statistics import require_reference, require_same_features

MAX_DIM = 2**14
"""Features of an image; the covariance of so many has 2 GiB."""
_VIEWS = ("features", "probabilities")
_SAME = 0.01
"""of the largest feature: what rounding, also in bfloat16, may change if an image stands alone"""


def check_feature_network(config: RunConfig) -> None:
    """Refuse a feature network that the evaluation of this run could not measure with.

    Nothing is done for `evaluate.features=trained`.

    Raises:
        PipelineError: as `tried_network` and, of its features, `check_reference`.
    """
    if config.evaluate.features != "trained":
        check_reference(config, dim=tried_network(config).dim)


def check_reference(config: RunConfig, *, dim: int | None = None) -> None:
    """Refuse statistics of `evaluate.reference` that the samples could not be held to.

    Args:
        config: the run.
        dim: numbers of an image; None: those of a published network, or not known yet.

    Raises:
        PipelineError: as `require_reference`; or they are not of the features of the network.
    """
    evaluate = config.evaluate
    if evaluate.reference is None:
        return
    found = require_reference(evaluate.reference, str(evaluate.reference_sha256))
    known = known_by(evaluate.pinned)
    require_same_features(
        found,
        known.dim if dim is None and known is not None else dim,
        evaluate.pinned,
        origin=f"evaluate.reference={evaluate.reference!r}",
        features=f"evaluate.features={evaluate.features}",
    )


def tried_network(config: RunConfig) -> Foreign:
    """Return the network that `evaluate.features` names, after two images have gone through it.

    Raises:
        ConfigError: the file is not there, is another than its digest says, holds no network of
            its kind, does not take uint8 images of the run's size, or does not return a row of
            finite numbers for each image that depends on that image alone.
        DataError: the URL leads to no such file.
        StorageError: its server does not answer; running again may help.
    """
    evaluate = config.evaluate
    found = foreign.fetch(evaluate)
    named, images_u8 = f"evaluate.features={evaluate.features!r}", _two_images(config.data.shape)
    try:
        network = foreign.load(evaluate.feature_kind, found.data, torch.device("cpu"))
        seen = _tried(network, images_u8)
        if "probabilities" in seen:
            inception_score(seen["probabilities"])
    except (ConfigError, DataError) as error:
        raise ConfigError(f"{named}: {error}") from None
    features = seen["features"]
    if len(features[0]) > MAX_DIM:
        raise ConfigError(
            f"{named} returns {len(features[0])} numbers for an image, and at most {MAX_DIM} are "
            "taken; give a network that ends in a pooling"
        )
    if torch.equal(features[0], features[1]):
        raise ConfigError(
            f"{named} returns the same for two different images, and every distance would be 0; "
            "give one whose output depends on the image"
        )
    return replace(found, dim=len(features[0]))


def _two_images(shape: tuple[int, int, int]) -> Tensor:
    """Return a random image and its negative, (2, c, h, w) uint8."""
    words = seeding.random_words(seeding.key(0, "features", 4), 0, torch.arange(1), prod(shape))
    image = (words >> 24).to(torch.uint8).reshape(1, *shape)
    return torch.cat([image, 255 - image])


@torch.inference_mode()
def _tried(network: FeatureNetwork, images_u8: Tensor) -> dict[str, Tensor]:
    """Return what is said of two images, which is what is said of each alone.

    Raises:
        ConfigError: it is not, or nothing is said.
    """
    device = torch.device("cpu")
    together, *alone = (
        looked_at(network, some, views=_VIEWS, batch_size=len(some), device=device)
        for some in (images_u8, images_u8[:1], images_u8[1:])
    )
    for name, rows in together.items():
        largest = float(rows.abs().max())
        singly = torch.cat([one[name] for one in alone])
        if float((rows - singly).abs().max()) > _SAME * largest:
            raise ConfigError(
                "it returns other numbers for an image that stands alone than for one beside "
                "another, or draws them at random; give one in evaluation mode, saved after .eval()"
            )
    return together
