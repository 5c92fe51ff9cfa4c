"""From a checkpoint to the denoiser that samplers and the bound take, and to what guides it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import ComputeConfig, RunConfig
from ddpm_core.config.model_ref import EMA
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.wrappers.classifier_guidance import Classifier, Score, TextFit
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.build import AnyDenoiser, arithmetic_of, build_denoiser, layout_of
from ddpm_core.inference.networks import AnyNetwork, build_network
from ddpm_core.inference.one_size import OfOneSize
from ddpm_core.inference.weights import load_average
from ddpm_core.models.blocks import KEPT_SHORT, Norm
from ddpm_core.models.clip import Clip, ImageTower
from ddpm_core.runs.weights import Weights
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store

Guide = NetworkDenoiser | Score
"""what may guide a denoiser: a weaker model, or what says of noised images of which class they are,
or how well they fit a text"""


class AveragedNetwork:
    """The averaged weights in evaluation mode: a `Network`, float32 inside and out.

    Args:
        network: taken over: moved, and changed to where and how it computes.
        device: where it computes.
        dtype: of its arithmetic, but that of its last layer.
        compute: whether it is compiled and recorded: for batches of the size of the first, and of
            half and twice that, as guidance calls it; None: neither.
    """

    def __init__(
        self,
        network: AnyNetwork | ImageTower,
        device: torch.device,
        *,
        dtype: torch.dtype,
        compute: ComputeConfig | None = None,
    ) -> None:
        self._network = network.to(device).eval().requires_grad_(requires_grad=False)
        self._device_type, self._dtype = device.type, dtype
        self._layout = layout_of(device, compiled=compute is not None and compute.compile)
        self._network.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's stub
        if dtype != torch.float32:
            is_compiled = compute is not None and compute.compile
            norms = device.type in KEPT_SHORT and not is_compiled
            _round_weights(self._network, dtype, norms=norms)
        self._often = None if compute is None else OfOneSize.of(self._output, device, compute)
        self.null = network.null.to(device)
        """of one image: the conditioning that says nothing, see `UNet.null`"""

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning = NOTHING) -> Tensor:
        """Return the network's output; its arithmetic may be narrower, x_t's never is."""
        x = x_t.to(torch.float32, memory_format=self._layout)
        is_differentiated = torch.is_grad_enabled() and x.requires_grad
        if self._often is None or is_differentiated:
            output = self._output(x, t, conditioning)
        else:
            output = self._often(x, t, conditioning)
        return output.to(torch.float32, memory_format=torch.contiguous_format)

    def _output(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        with self._arithmetic():
            output: Tensor = self._network(x, t, conditioning)
        return output

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device_type, self._dtype)


def _round_weights(network: AnyNetwork | ImageTower, dtype: torch.dtype, *, norms: bool) -> None:
    """Round what would be rounded anew in every call, to the same values, but once.

    In a forward pass of CIFAR-10's network those copies are a quarter of the time of a CPU, and
    224 of 651 launches of a GPU.
    """
    kinds = (nn.Conv2d, nn.Linear, *((Norm,) if norms else ()))
    for layer in network.modules():
        if isinstance(layer, kinds) and layer is not network.last:
            layer.to(dtype)


def load_denoiser(
    store: Store,
    config: RunConfig,
    checkpoint: Manifest,
    device: torch.device,
    *,
    average: str = EMA,
    compute: ComputeConfig | None = None,
) -> AnyDenoiser:
    """Read the averaged weights, verified, and put them where they compute.

    Args:
        store: where they are.
        config: of the run that they are of.
        checkpoint: that holds them.
        device: where they compute.
        average: which of its averages.
        compute: how; see `AveragedNetwork`.

    Raises:
        CheckpointError: if they are damaged or do not fit `config`.
    """
    averaged = load_averaged(store, config, checkpoint, device, average=average, compute=compute)
    return build_denoiser(config, averaged, averaged.null)


def load_averaged(
    store: Store,
    config: RunConfig,
    checkpoint: Manifest,
    device: torch.device,
    *,
    average: str = EMA,
    compute: ComputeConfig | None = None,
) -> AveragedNetwork:
    """As `load_denoiser`, of networks of any role: what they say is left to the caller."""
    network = _loaded(store, config, checkpoint, average)
    dtype = arithmetic_of(config.train.precision, device)
    return AveragedNetwork(network, device, dtype=dtype, compute=compute)


def load_score(
    store: Store,
    config: RunConfig,
    checkpoint: Manifest,
    device: torch.device,
    *,
    average: str = EMA,
) -> Score:
    """As `load_denoiser`, of networks that guide by a gradient: neither compiled nor recorded."""
    return score_of(config, _loaded(store, config, checkpoint, average), device)


def score_of(config: RunConfig, network: AnyNetwork, device: torch.device) -> Score:
    """Return what a trained network says of x_t, computing as its run says.

    Raises:
        CheckpointError: it draws images.
    """
    dtype = arithmetic_of(config.train.precision, device)
    if config.role == "classifier":
        return Classifier(AveragedNetwork(network, device, dtype=dtype))
    if not isinstance(network, Clip):
        raise CheckpointError(f"weights of model.kind={config.model.kind} say nothing of x_t")
    # Called once for each batch of images, and so as it was trained: in float32.
    network = network.to(device).eval().requires_grad_(requires_grad=False)
    scale = float(network.scale)
    images = AveragedNetwork(network.image, device, dtype=dtype)
    return TextFit(images, network.of_text, scale)


def _loaded(store: Store, config: RunConfig, checkpoint: Manifest, average: str) -> AnyNetwork:
    network = build_network(config)
    try:
        network.load_state_dict(load_average(store, checkpoint, average=average))
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {store.uri_of(checkpoint.folder)} do not fit the network of this "
            f"configuration: {error}. Use the version of this program that trained them"
        ) from None
    return network


def load_guide(
    store: Store, weights: Weights, device: torch.device, *, compute: ComputeConfig | None = None
) -> Guide | None:
    """Read the weights that guide others, if there are any, as `load_denoiser` does."""
    weaker = weights.weaker
    if weaker is None:
        return None
    trained, checkpoint, average = weaker.trained, weaker.checkpoint, weaker.average
    if trained.role != "denoiser":
        return load_score(store, trained, checkpoint, device, average=average)
    found = load_denoiser(store, trained, checkpoint, device, average=average, compute=compute)
    if not isinstance(found, NetworkDenoiser):
        raise CheckpointError(
            f"{weaker.name} are weights of a chain of bits, which guide no images"
        )
    return found
