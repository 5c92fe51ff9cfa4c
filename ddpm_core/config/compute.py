"""The section `compute`: where and how wide it runs."""

from typing import Annotated

from pydantic import Field

from ddpm_core.config.section import PLACE, Count, Few, Section


class ComputeConfig(Section):
    """Where and how wide it runs. Changes the speed, not the experiment: in no fingerprint."""

    num_workers: Annotated[Few, PLACE] = 1
    """workers of every stage; at most one per GPU where use_gpu is null and the cluster has GPUs"""
    cpus_per_worker: Annotated[Few, PLACE] = 1
    """CPU cores, and threads, of one worker"""
    use_gpu: Annotated[bool | None, PLACE] = None
    """one GPU per worker; null: if the cluster has any"""
    max_failures: Annotated[int, PLACE] = Field(3, ge=0, le=10**9)
    """how often lost workers are replaced before the stage gives up"""
    collective_timeout_s: Annotated[Count, PLACE] = 120
    """seconds after which workers that wait for a lost one give up"""
    compile: Annotated[bool, PLACE] = False
    """fuse the kernels of the network: a minute or two at the start of each worker, then faster on
    a GPU; it rounds otherwise, within what arithmetic of that precision does, and dropout draws
    other masks"""
    cuda_graphs: Annotated[bool, PLACE] = False
    """launch on a GPU what a step computes as one recorded graph: the same numbers with less work
    for the CPU, and more memory; nothing changes on a CPU"""
    micro_batch_size: Annotated[Few | None, PLACE] = None
    """images of a worker's share of the batch that the network is shown at once in training; null:
    all. Less memory, and the same gradient but for rounding; dropout draws other masks"""
    checkpoint_activations: Annotated[bool, PLACE] = False
    """whether training computes the activations inside the network's blocks a second time instead
    of keeping them: less memory, a third more time, the same bits"""
    divide_state: Annotated[bool, PLACE] = False
    """divide Adam's moments and the averages among the workers of a training: of 20 bytes a
    parameter each holds 8, and its share of the rest; the same bits, and every step sends the
    weights"""
