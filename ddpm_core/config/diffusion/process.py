"""What the section `diffusion` has of every kind of forward process."""

from ddpm_core.config.section import Section


class ProcessConfig(Section):
    """The keys of every kind. Abstract: `kind` has no default here.

    Nothing but `kind` means the same in each, so that another kind begins with its own defaults.
    """

    kind: str
    """which forward process: the paper's chain of steps (chain), a chain of bits (binomial), or one
    in continuous time: the equations of score-based models (vp, subvp, ve), flow matching (flow),
    or EDM's (edm)"""
