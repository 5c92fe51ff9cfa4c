"""A run as one page: everything that stands in its manifests, in a file that needs nothing else."""
