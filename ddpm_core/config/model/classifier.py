"""The section `model` of a classifier of noised images, and what follows from it."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ddpm_core.config.model.count import linear
from ddpm_core.config.model.network import Role
from ddpm_core.config.model.unet import LevelsConfig, attention, block, conv, halved_blocks


class ClassifierConfig(LevelsConfig):
    """A classifier p(y | x_t, t) of noised images: the encoder half of the U-Net (Dhariwal and
    Nichol 2021, section 4), for `sample.guidance_by`.
    """

    role: ClassVar[Role] = "classifier"

    kind: Literal["classifier"] = "classifier"
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""

    @property
    def uses_labels(self) -> bool:
        """Whether the training goes by the labels of the images: it learns to say them."""
        return True

    @model_validator(mode="after")
    def _classes_belong_to_labels(self) -> Self:
        for key in ("conditioning", "known", "text_length"):
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key}={str(value).lower()} is for networks that are given something of an "
                    "image, and model.kind=classifier is to say what it is of: set "
                    f"model.{key}={str(type(self).model_fields[key].default).lower()}"
                )
        return self

    @property
    def row_size(self) -> int:
        """Parameters of the last layer for each class."""
        return self.base_channels * self.channel_mults[-1] + 1

    def num_parameters(
        self,
        *,
        in_channels: int,
        out_channels: int,  # noqa: ARG002 - of other kinds
        height: int,
        width: int,  # noqa: ARG002
    ) -> int:
        """Return the parameters of `models.classifier.NoisedClassifier` without its last layer,
        for images of this height, in pixels.
        """
        base, embedding = self.base_channels, 4 * self.base_channels
        widths = [base * mult for mult in self.channel_mults]
        attends = [height // 2**level in self.attention_resolutions for level in range(len(widths))]
        total = linear(base, embedding) + linear(embedding, embedding)
        total += conv(in_channels, base) + 2 * widths[-1]
        total += 2 * block(widths[-1], widths[-1], embedding) + attention(widths[-1])
        for level, num_in, level_width in halved_blocks(base, widths, self.num_res_blocks):
            total += block(num_in, level_width, embedding)
            total += attention(level_width) if attends[level] else 0
        return total + sum(conv(one, one) for one in widths[:-1])
