"""Counting the parameters of a network by its configuration: known before torch is imported."""


def linear(num_in: int, num_out: int) -> int:
    """Return the parameters of a linear layer with a bias."""
    return num_in * num_out + num_out
