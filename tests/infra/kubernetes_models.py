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
REQUIRED: Mapping[str, frozenset[str]] = {
    "RayClusterSpec": frozenset({"headGroupSpec"}),
    "HeadGroupSpec": frozenset({"template", "rayStartParams"}),
    "WorkerGroupSpec": frozenset(
        {"groupName", "minReplicas", "maxReplicas", "template", "rayStartParams"}
    ),
}
"""fields that KubeRay's schema does not let out"""
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
    missing: frozenset[str] = frozenset()
    if kind in KUBERAY:
        kinds, model = KUBERAY[kind], None
        missing = REQUIRED.get(kind, missing) - value.keys()
    else:
        model = getattr(client, kind)
        kinds = {model.attribute_map[name]: one for name, one in model.openapi_types.items()}
    lines = [f"{at}.{key}: {kind} has no such field" for key in value if key not in kinds]
    lines += [f"{at}.{key}: {kind} must have it" for key in sorted(missing)]
    for key in value.keys() & kinds.keys():
        lines += mistakes(value[key], kinds[key], f"{at}.{key}")
    if model is not None:
        names = {json_name: name for name, json_name in model.attribute_map.items()}
        try:  # which fields must be there, its constructor knows
            model(**{names[key]: value[key] for key in value.keys() & kinds.keys()})
        except ValueError as error:
            lines.append(f"{at}: {error}")
    return lines


def refusals(spec: dict[str, Any]) -> list[str]:
    """Return why KubeRay's operator would refuse the spec of a RayCluster that its schema allows.

    Source: KubeRay, ray-operator/controllers/ray/utils/validation.go, ValidateRayClusterSpec; what
    is about fields that no manifest of ours has is left out.
    """
    groups = [("head", spec["headGroupSpec"])]
    groups += [(one["groupName"], one) for one in spec["workerGroupSpecs"]]
    said = []
    for name, group in groups:
        pod = group["template"]["spec"]
        if not pod["containers"]:
            said.append(f"{name}: no container")
            continue
        if "labels" in group["rayStartParams"]:
            said.append(f"{name}: labels in rayStartParams")
        if spec.get("autoscalerOptions", {}).get("version") == "v2":
            if pod.get("restartPolicy", "Never") != "Never":
                said.append(f"{name}: restartPolicy {pod['restartPolicy']} with autoscaler v2")
            if _has_variable(pod, "RAY_enable_autoscaler_v2"):
                said.append(f"{name}: the version of the autoscaler is given twice")
        if _has_variable(pod, "RAY_REDIS_ADDRESS") or _has_variable(pod, "REDIS_USERNAME"):
            said.append(f"{name}: Redis without gcsFaultToleranceOptions")
    version = tuple(map(int, spec.get("rayVersion", "0").split(".")))
    if spec.get("authOptions", {}).get("mode") == "token" and version < (2, 52):
        said.append(f"rayVersion {version} knows no token")
    return said


def _has_variable(pod: dict[str, Any], name: str) -> bool:
    return any(one["name"] == name for one in pod["containers"][0].get("env", []))
