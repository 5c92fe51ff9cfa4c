"""Hold manifests to the types of Kubernetes' own API, as its Python client ships them.

KubeRay's types are in no package: those of its fields that we use are written here, by
https://docs.ray.io/en/master/kuberay/references/api.html (KubeRay 1.7.1). A field that is not here
is a mistake until somebody has looked it up; what a pod is, Kubernetes' types say.
"""

import re
from collections.abc import Mapping
from typing import Any

from kubernetes import client

KUBERAY: Mapping[str, Mapping[str, str]] = {
    "RayCluster": {
        "apiVersion": "str",
        "kind": "str",
        "metadata": "V1ObjectMeta",
        "spec": "RayClusterSpec",
    },
    "RayClusterSpec": {
        "rayVersion": "str",
        "authOptions": "AuthOptions",
        "enableInTreeAutoscaling": "bool",
        "autoscalerOptions": "AutoscalerOptions",
        "headGroupSpec": "HeadGroupSpec",
        "workerGroupSpecs": "list[WorkerGroupSpec]",
    },
    "AuthOptions": {"mode": "disabled|token", "secretName": "str"},
    "AutoscalerOptions": {
        "version": "v1|v2",
        "upscalingMode": "Default|Aggressive|Conservative",
        "idleTimeoutSeconds": "int",
        "resources": "V1ResourceRequirements",
    },
    "HeadGroupSpec": {"rayStartParams": "dict(str, str)", "template": "V1PodTemplateSpec"},
    "WorkerGroupSpec": {
        "groupName": "str",
        "replicas": "int",
        "minReplicas": "int",
        "maxReplicas": "int",
        "rayStartParams": "dict(str, str)",
        "template": "V1PodTemplateSpec",
    },
    "RayJob": {
        "apiVersion": "str",
        "kind": "str",
        "metadata": "V1ObjectMeta",
        "spec": "RayJobSpec",
    },
    "RayJobSpec": {
        "entrypoint": "str",
        "submissionMode": "K8sJobMode|HTTPMode|InteractiveMode|SidecarMode",
        "backoffLimit": "int",
        "shutdownAfterJobFinishes": "bool",
        "ttlSecondsAfterFinished": "int",
        "rayClusterSpec": "RayClusterSpec",
    },
}
_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def mistakes(value: Any, kind: str, at: str = "") -> list[str]:
    """Return a line for each place of `value` that is not of the type called `kind`."""
    if kind in _PLAIN:
        right = isinstance(value, _PLAIN[kind]) and (kind != "int" or not isinstance(value, bool))
        return [] if right else [f"{at}: {value!r} is no {kind}"]
    if "|" in kind:
        return [] if value in kind.split("|") else [f"{at}: {value!r} is none of {kind}"]
    if found := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{at}: {value!r} is no list"]
        return [
            line for i, one in enumerate(value) for line in mistakes(one, found[1], f"{at}[{i}]")
        ]
    if not isinstance(value, dict):
        return [f"{at}: {value!r} is no {kind}"]
    if found := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return [line for k, one in value.items() for line in mistakes(one, found[1], f"{at}.{k}")]
    return _of_model(value, kind, at)


def _of_model(value: dict[str, Any], kind: str, at: str) -> list[str]:
    if kind in KUBERAY:
        kinds, model = KUBERAY[kind], None
    else:
        model = getattr(client, kind)
        kinds = {model.attribute_map[name]: one for name, one in model.openapi_types.items()}
    lines = [f"{at}.{key}: {kind} has no such field" for key in value if key not in kinds]
    for key in value.keys() & kinds.keys():
        lines += mistakes(value[key], kinds[key], f"{at}.{key}")
    if model is not None:
        names = {json_name: name for name, json_name in model.attribute_map.items()}
        try:  # which fields must be there, its constructor knows
            model(**{names[key]: value[key] for key in value.keys() & kinds.keys()})
        except ValueError as error:
            lines.append(f"{at}: {error}")
    return lines
