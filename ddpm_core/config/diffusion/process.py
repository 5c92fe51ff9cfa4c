"""What the section `diffusion` has of every kind of forward process."""

from ddpm_core.config.section import Section


class ProcessConfig(Section):
    """The keys of every kind. Abstract: `kind` has no default here.

    Nothing but `kind` means the same in each, so that another kind begins with its own defaults.
    """

    kind: str
    """which forward process: the paper's chain of steps (chain), or a chain of bits (binomial)"""
