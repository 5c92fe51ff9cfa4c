"""Paths from images to noise: the chain of steps and its variances, the continuous ones, sigmas."""
