"""Samplers: functions of a denoiser and noise, one file for each family.

Each takes a `Denoiser` and x_T, standard normal, and returns images. Randomness is given to it, so
that an image is a function of its noise and can be drawn again anywhere.
"""
