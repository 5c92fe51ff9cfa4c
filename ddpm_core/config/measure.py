"""The sections `evaluate` and `study`: the measurements of a trained model."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.feature_networks import FOLDER, KNOWN, Kind, known_by
from ddpm_core.config.section import Count, Few, Section

Metric = Literal[
    "kernel_distance",
    "precision_recall",
    "density_coverage",
    "spatial_distance",
    "gaussian_distance",
    "sliced_distance",
    "intervals",
]
"""What is measured of features beside the Frechet distance: KID, or KD of other features; both
pairs of fidelity and diversity; sFID; CMMD; MIND; and how far the Frechet distance and the
inception score may be off."""


class EvaluateConfig(Section):
    """What is measured on the held-out images."""

    num_likelihood_images: Count = 256
    """held-out images whose bits/dim are computed, each at every timestep; all if there are fewer
    """
    batch_size: Count = 256
    """images through a network at once"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of the noise of the bound"""
    num_classified_images: int = Field(0, ge=0, le=10**9)
    """of model.conditioning=label: held-out images that the network itself classifies, by the label
    with which it predicts their noise best; all if there are fewer, 0: none. Each takes 20 calls
    for every class. Of model.conditioning=text the same of its own caption and nine others"""
    label_worth: bool = False
    """of model.conditioning=label and text: measure bits/dim of the same images without their
    labels or captions too, and so how many bits an image costs less once it is known"""
    num_enlarged_images: int = Field(0, ge=0, le=10**9)
    """of model.low_size: held-out images that are made small and enlarged again, at several levels
    of noise, to measure whether what is drawn has that low resolution; all if there are fewer,
    0: none. Each is drawn five times"""
    ode_steps: Few = 50
    """of processes in continuous time: steps of the solver of order 4 of the probability flow,
    through which bits/dim of the same images are computed too; four calls of the network each"""
    features: str = "trained"
    """feature network of all distances: 'trained' (a small classifier, trained here on the labelled
    training images), 'inception', 'dinov2' or 'clip' (published ones, downloaded once), path or
    https URL of a TorchScript file, or transformers:FOLDER, a path or s3:// URI"""
    features_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file, 64 digits 0-9 and a-f; required with one. Of a folder of transformers
    the error says it"""
    feature_steps: Count = 600
    """optimiser steps of the trained feature network"""
    metrics: tuple[Metric, ...] = ()
    """what is measured of the features besides: kernel_distance, precision_recall,
    density_coverage, spatial_distance (of features=inception), gaussian_distance, sliced_distance,
    intervals; docs/evaluation.md says what they are"""
    reference: str | None = None
    """.npz of published statistics (mu, sigma; perhaps mu_s, sigma_s) of the same features, path or
    https URL: the Frechet distance of the samples to it is measured too"""
    reference_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the .npz; required with one"""

    @property
    def feature_kind(self) -> Kind:
        """How the feature network is made."""
        if self.features == "trained":
            return "trained"
        if self.features.startswith(FOLDER):
            return "transformers"
        known = known_by(self.pinned)
        return "torchscript" if known is None else known.kind

    @property
    def pinned(self) -> str | None:
        """The digest of the feature network's file or folder; None of the trained one."""
        known = KNOWN.get(self.features)
        return self.features_sha256 if known is None else known.sha256

    @property
    def is_file_here(self) -> bool:
        """Whether the feature network is one file on this machine's disk."""
        is_named = self.features == "trained" or self.features in KNOWN
        return not is_named and "://" not in self.features and not self.features.startswith(FOLDER)

    @model_validator(mode="after")
    def _foreign_network_is_pinned(self) -> Self:
        scheme = self.features.removeprefix(FOLDER).partition("://")
        allowed = "s3" if self.features.startswith(FOLDER) else "https"
        if scheme[1] and scheme[0] != allowed:
            raise ValueError(
                f"features={self.features!r} must be 'trained', {', '.join(map(repr, KNOWN))}, "
                f"{FOLDER} with a path or s3:// URI, a path or an https URL; download the file and "
                "give its path"
            )
        is_named = self.features == "trained" or self.features in KNOWN
        if is_named and self.features_sha256 is not None:
            if self.features == "trained":
                raise ValueError(
                    "features_sha256 is given, but features='trained' is no file; give features "
                    "too, or leave both out"
                )
            raise ValueError(
                f"features_sha256 is given, but features={self.features!r} has a digest of its "
                f"own; leave it out, or give ./{self.features} for a file of that name"
            )
        if not is_named and self.features_sha256 is None:
            raise ValueError(
                f"features={self.features!r} is a file from outside and features_sha256 is not "
                "given; give the SHA-256 of the file you trust"
            )
        return self

    @model_validator(mode="after")
    def _metrics_can_be_measured(self) -> Self:
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics={list(self.metrics)} names one twice; name each once")
        if "spatial_distance" in self.metrics and self.feature_kind != "inception":
            raise ValueError(
                f"metrics has spatial_distance (sFID), which is of maps within the Inception, and "
                f"features={self.features!r}; give features=inception, or leave it out"
            )
        if (self.reference is None) != (self.reference_sha256 is None):
            raise ValueError(
                f"reference={self.reference!r} and reference_sha256={self.reference_sha256!r} go "
                "together: give the .npz and its SHA-256, or neither"
            )
        if self.reference is not None and self.features == "trained":
            raise ValueError(
                "reference is of published features, and features='trained' are this data set's "
                "own; give features=inception, or the network that the .npz was made with"
            )
        scheme, is_url, _ = (self.reference or "").partition("://")
        if is_url and scheme != "https":
            raise ValueError(f"reference={self.reference!r} must be a path or an https URL")
        return self


class StudyConfig(Section):
    """The paper's other claims: what the stages `study` and `ablations` measure and draw."""

    num_images: Count = 2000
    """images drawn for each point of a plot of quality"""
    swept_steps: Annotated[tuple[Few, ...], Field(min_length=1, max_length=100)] = (10, 20, 50, 100)
    """numbers of steps at which all samplers are compared"""
    num_likelihood_images: Count = 256
    """images of each split, training and held-out, whose bits/dim are computed"""
    num_ode_images: Count = 64
    """held-out images whose bits/dim are computed through the probability flow too"""
    ode_steps: Few = 100
    """steps of the solver of Heun on the probability flow, beside the adaptive one"""
    ode_tolerance: float = Field(1e-4, gt=0)
    """allowed error of a step of the adaptive solver, absolute and relative"""
    mix_depth: float = Field(0.5, gt=0, le=1)
    """how deep the pairs of the paper's fig. 8 are diffused before they are mixed, as a share of
    the chain; images of few pixels have no trace of themselves left at half of it"""
    num_shown: Few = 8
    """images of a sheet of pictures"""
    batch_size: Count = 250
    """images through the network at once, which are worked on and kept together"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of all noise of the study"""
    ablation_steps: Count | None = None
    """optimiser steps of each of the six ablations; null: as many as the run itself"""
    ddim_steps: Annotated[tuple[Few, ...], Field(max_length=20)] = ()
    """numbers of steps S of the DDIM paper's tables, as in [10, 20, 50, 100, 1000]: samples by eta
    and S, the same x_T at each S, images encoded and decoded, arcs between latents; none: these are
    left out"""

    @model_validator(mode="after")
    def _steps_are_numbers_of_steps(self) -> Self:
        for key in ("swept_steps", "ddim_steps"):
            steps = getattr(self, key)
            if min(steps, default=2) < 2 or len(set(steps)) < len(steps):
                raise ValueError(f"{key}={list(steps)} must be different numbers, each at least 2")
        return self
