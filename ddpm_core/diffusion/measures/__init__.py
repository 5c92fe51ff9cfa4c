"""What is measured with a denoiser: the bound and its parts, bits of the flow, coding, classes."""
