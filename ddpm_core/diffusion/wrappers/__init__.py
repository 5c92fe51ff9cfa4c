"""Denoisers made of denoisers: guidance, thresholds, known pixels, a part of a path.

Each has the two members of `Denoiser` and none of a sampler: whatever draws or measures with a
network does so with a wrapped one, and wrappers wrap each other.
"""
