"""What the section `model` has of every kind of network."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.section import Few, Section

AUGMENT_NUMBERS = 9
"""numbers that a network of train.augment is given, as in `conditioning`"""
Role = Literal["denoiser", "classifier", "clip", "text"]
"""what a network says of x_t: what was done to the image, of which class it is, or how well it fits
a caption; or, of captions alone, what is hidden in them. A run has the stages of its network's
role, see `runs.stages`"""


class NetworkConfig(Section):
    """The keys of every kind. Abstract: `kind` has no default here."""

    role: ClassVar[Role] = "denoiser"
    reads_text: ClassVar[bool] = False
    """whether there is a network of this kind that is given captions"""

    kind: str
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""
    conditioning: Literal["none", "label", "text"] = "none"
    """what the network is given beside x_t and t: nothing, the class of each image (label), or a
    caption of it (text)"""
    num_classes: int | None = Field(None, ge=2, le=2**16)
    """of conditioning=label and kind=classifier: classes of the data set; null for data sets whose
    number is known, needed for collections of image files"""
    text_length: int = Field(128, ge=2, le=2**12)
    """of conditioning=text: tokens of a caption, the bytes of its UTF-8 and one for its end; a
    longer one keeps its first whole characters"""
    known: bool = False
    """whether the network is given, beside x_t, the part of each image that is known, and a mask of
    it: for inpainting. Training erases random regions"""
    low_size: tuple[Few, Few] | None = None
    """[height, width] of the low resolution that the network is given beside x_t, and enlarges to
    data.height, data.width; training makes it of its images. null: it draws images of nothing"""

    @property
    def time_features(self) -> int:
        """Features of the time, to which what is given of train.augment is added; 0: not here."""
        return 0

    @property
    def uses_labels(self) -> bool:
        """Whether the training goes by the labels of the images."""
        return self.conditioning == "label"

    @property
    def uses_text(self) -> bool:
        """Whether the network is given captions of the images."""
        return self.conditioning == "text"

    @model_validator(mode="after")
    def _classes_belong_to_labels(self) -> Self:
        self.refuse_unused("conditioning", {"num_classes": "label", "text_length": "text"})
        return self

    @model_validator(mode="after")
    def _captions_are_read(self) -> Self:
        if self.uses_text and not self.reads_text:
            raise ValueError(
                f"conditioning=text gives the network captions, and kind={self.kind} reads none; "
                "set model.kind=adm, or leave model.conditioning out"
            )
        return self
