"""What the section `model` has of networks that are trained by the captions of images alone."""

from typing import ClassVar, Self

from pydantic import model_validator

from ddpm_core.config.model.network import NetworkConfig


class OfCaptions(NetworkConfig):
    """The keys of CLIP and of the language model. Abstract: `kind` has no default here."""

    reads_text: ClassVar[bool] = True

    @property
    def uses_text(self) -> bool:
        """Whether the training goes by the captions of the images."""
        return True

    @property
    def row_size(self) -> int:
        """Parameters of each class: it has none."""
        return 0

    @model_validator(mode="after")
    def _classes_belong_to_labels(self) -> Self:
        for key in NetworkConfig.model_fields.keys() - {"kind", "text_length"}:
            value, default = getattr(self, key), NetworkConfig.model_fields[key].default
            if value != default:
                raise ValueError(
                    f"{key}={str(value).lower()} is of other networks, and model.kind={self.kind} "
                    f"goes by the captions of the images alone: leave model.{key} out"
                )
        return self
