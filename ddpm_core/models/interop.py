"""Which weight of our U-Net is which of the same elsewhere: in `diffusers`, in the original.

Every name and shape must match, both ways. Values are moved and never computed with, so that the
way there and back changes no bit.

Source: the names of diffusers' `UNet2DModel`, and those of the variables in the original's
checkpoints (TensorFlow, in which a convolution is (height, width, in, out), a matrix (in, out)).
"""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from ddpm_core.errors import CheckpointError

_NUM_NAMED = 3  # of the keys that are wrong, so many are spelt out

DIFFUSERS_PARTS = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "time_proj": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_out": "to_out.0",
}
DIFFUSERS_MIDDLE = {
    "block_1": "resnets.0",
    "attention": "attentions.0",
    "block_2": "resnets.1",
}
# What diffusers called the parts of an attention until version 0.14.
_DIFFUSERS_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_ORIGINAL_PARTS = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "time_proj": "temb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "shortcut": "nin_shortcut",
    "norm": "norm",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_out": "proj_out",
}
_ORIGINAL_MIDDLE = {"block_1": "block_1", "attention": "attn_1", "block_2": "block_2"}
_ORIGINAL_EMBEDDING = {"linear_1": "dense0", "linear_2": "dense1"}
_ORIGINAL_LAYER = {"weight": "W", "bias": "b"}
_ORIGINAL_NORM = {"weight": "gamma", "bias": "beta"}
_ORIGINAL_PREFIX = "model/"
_AVERAGED = "/ExponentialMovingAverage"
# What the original's optimiser keeps beside the weights.
_BOOKKEEPING = ("/Adam", "/Adam_1")
_COUNTERS = ("global_step", "beta1_power", "beta2_power")


# -- names -------------------------------------------------------------------------------------


def diffusers_name(name: str) -> str:
    """Return the name in `UNet2DModel` of our parameter, e.g. up.0.blocks.2.conv_1.weight.

    Raises:
        CheckpointError: if our network has no such parameter.
    """
    try:
        return _diffusers_path(name)
    except KeyError:
        raise _no_such_parameter(name) from None


def _diffusers_path(name: str) -> str:
    match name.split("."):
        case ["time_embed", layer, kind]:
            return f"time_embedding.{layer}.{kind}"
        case ["class_embed", kind]:
            return f"class_embedding.{kind}"
        case ["conv_in" | "conv_out" as layer, kind]:
            return f"{layer}.{kind}"
        case ["norm_out", kind]:
            return f"conv_norm_out.{kind}"
        case ["middle", block, part, kind]:
            return f"mid_block.{DIFFUSERS_MIDDLE[block]}.{DIFFUSERS_PARTS[part]}.{kind}"
        case ["down" | "up" as path, stage, "downsample" | "upsample" as change, "conv", kind]:
            return f"{path}_blocks.{stage}.{change}rs.0.conv.{kind}"
        case ["down" | "up" as path, stage, "blocks", index, part, kind]:
            return f"{path}_blocks.{stage}.resnets.{index}.{DIFFUSERS_PARTS[part]}.{kind}"
        case ["down" | "up" as path, stage, "attentions", index, part, kind]:
            return f"{path}_blocks.{stage}.attentions.{index}.{DIFFUSERS_PARTS[part]}.{kind}"
        case _:
            raise KeyError(name)


def original_name(name: str, num_levels: int) -> str:
    """Return the name of our parameter in the original, e.g. model/up_1/block_2/conv1/W.

    Args:
        name: ours. We count the stages on the way up from the lowest resolution on, the original
            from full resolution on.
        num_levels: how many resolutions the network has.

    Raises:
        CheckpointError: if our network has no such parameter.
    """
    try:
        path, layer, kind = _original_path(name, num_levels)
        leaf = (_ORIGINAL_NORM if "norm" in layer else _ORIGINAL_LAYER)[kind]
    except KeyError:
        raise _no_such_parameter(name) from None
    return _ORIGINAL_PREFIX + "/".join(filter(None, [path, layer, leaf]))


def _original_path(name: str, num_levels: int) -> tuple[str, str, str]:
    """Return the block's name there, the layer's there, and our kind: weight or bias."""

    def at(path: str, stage: str) -> str:
        return f"{path}_{int(stage) if path == 'down' else num_levels - 1 - int(stage)}"

    match name.split("."):
        case ["conv_in" | "conv_out" | "norm_out" as layer, kind]:
            return "", layer, kind
        case ["time_embed", layer, kind]:
            return "temb", _ORIGINAL_EMBEDDING[layer], kind
        case ["middle", block, part, kind]:
            return f"mid/{_ORIGINAL_MIDDLE[block]}", _ORIGINAL_PARTS[part], kind
        case ["down" | "up" as path, stage, "downsample" | "upsample" as change, "conv", kind]:
            return f"{at(path, stage)}/{change}", "conv", kind
        case ["down" | "up" as path, stage, "blocks", index, part, kind]:
            return f"{at(path, stage)}/block_{index}", _ORIGINAL_PARTS[part], kind
        case ["down" | "up" as path, stage, "attentions", index, part, kind]:
            return f"{at(path, stage)}/attn_{index}", _ORIGINAL_PARTS[part], kind
        case _:
            raise KeyError(name)


def _no_such_parameter(name: str) -> CheckpointError:
    return CheckpointError(
        f"{name!r} is no parameter of our U-Net; weights are exchanged of `models.unet.UNet` alone"
    )


# -- weights -----------------------------------------------------------------------------------


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights, by our names, as those of a `UNet2DModel`; the tensors are the same."""
    return {diffusers_name(name): tensor for name, tensor in weights.items()}


def from_diffusers(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a `UNet2DModel`'s weights under our names, in the order of `like`.

    The names of diffusers before 0.14 are taken too, and attention matrices as 1x1 convolutions.

    Args:
        tensors: by diffusers' names.
        like: the parameters of our network by name, of which shapes count; they may be `meta`.

    Raises:
        CheckpointError: naming the weights that are missing, unknown, twice there or of another
            shape.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        now = _present_name(key)
        if now in renamed:
            raise CheckpointError(
                f"the weights have {now!r} under its present name and its old one; keep one"
            )
        renamed[now] = tensor
    expected = {diffusers_name(name): name for name in like}

    def reshaped(name: str, tensor: Tensor) -> Tensor:
        if like[name].ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            return tensor[:, :, 0, 0]
        return tensor

    return matched(renamed, expected, like, reshaped=reshaped, what="diffusers")


def from_original(
    variables: Mapping[str, Tensor], like: Mapping[str, Tensor], *, num_levels: int
) -> dict[str, Tensor]:
    """Return the original's weights under our names, in the order of `like`.

    If the variables hold moving averages, these are taken. What the optimiser keeps (Adam's
    moments, counters) is passed over.

    Args:
        variables: by TensorFlow's names, with or without `model/` before them.
        like: the parameters of our network by name, of which shapes count; they may be `meta`.
        num_levels: how many resolutions the network has.

    Raises:
        CheckpointError: naming the weights that are missing, unknown or of another shape.
    """
    weights = {
        name if name.startswith(_ORIGINAL_PREFIX) else _ORIGINAL_PREFIX + name: tensor
        for name, tensor in variables.items()
        if not name.endswith(_BOOKKEEPING) and name.rpartition("/")[2] not in _COUNTERS
    }
    averages = {
        name.removesuffix(_AVERAGED): tensor
        for name, tensor in weights.items()
        if name.endswith(_AVERAGED)
    }
    expected = {original_name(name, num_levels): name for name in like}
    if averages:  # of the weights beside them, only those that should not be there count
        weights = {
            name: tensor
            for name, tensor in weights.items()
            if not name.endswith(_AVERAGED) and name not in expected
        } | averages

    def reshaped(name: str, tensor: Tensor) -> Tensor:
        if like[name].ndim == 4 and tensor.ndim == 4:
            return tensor.permute(3, 2, 0, 1)
        if like[name].ndim == 4 and tensor.ndim == 2:  # a shortcut: a matrix there, 1x1 here
            return tensor.t()[:, :, None, None]
        return tensor.t() if tensor.ndim == 2 else tensor

    return matched(weights, expected, like, reshaped=reshaped, what="the original")


def _present_name(key: str) -> str:
    match key.split("."):
        case [*path, "attentions", index, part, kind] if part in _DIFFUSERS_RENAMED:
            return ".".join([*path, "attentions", index, _DIFFUSERS_RENAMED[part], kind])
        case _:
            return key


def matched(
    given: Mapping[str, Tensor],
    expected: Mapping[str, str],
    like: Mapping[str, Tensor],
    *,
    what: str,
    reshaped: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor,
) -> dict[str, Tensor]:
    """Return {our name: tensor in our layout}, or say everything that does not match.

    Args:
        given: the tensors, by their names there.
        expected: name there -> our name.
        like: tensors of the shapes that are ours, by our names.
        what: the program whose names they are, for people.
        reshaped: (our name, tensor there) -> tensor in our layout.

    Raises:
        CheckpointError: naming the weights that are missing, unknown or of another shape.
    """
    missing, unknown = expected.keys() - given.keys(), given.keys() - expected.keys()
    found, misshapen = {}, []
    for theirs, ours in expected.items():
        if theirs in given:
            found[ours] = reshaped(ours, given[theirs]).contiguous()
            if found[ours].shape != like[ours].shape:
                misshapen.append(
                    f"{theirs} is {tuple(given[theirs].shape)} and would be {ours} "
                    f"{tuple(like[ours].shape)}"
                )
    if missing or unknown or misshapen:
        parts = [
            _some("missing", sorted(missing)),
            _some("unknown", sorted(unknown)),
            _some("of another shape", misshapen),
        ]
        raise CheckpointError(
            f"these weights are not those of this network, as {what} names them: "
            f"{'; '.join(filter(None, parts))}. All {len(expected)} must be there and no other; "
            "give the file that belongs to the configuration"
        )
    return found


def _some(problem: str, names: Iterable[str]) -> str:
    names = list(names)
    more = ", ..." if len(names) > _NUM_NAMED else ""
    return f"{len(names)} {problem} ({', '.join(names[:_NUM_NAMED])}{more})" if names else ""
