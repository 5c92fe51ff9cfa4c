"""The manifests for Kubernetes against its own types, KubeRay's fields, and what the code reads."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import ray
import yaml
from ray._private import ray_constants

from ddpm_core import __version__
from ddpm_core.cli import changes_of
from ddpm_core.cluster.autoscaling import PATIENCE_VARIABLE
from flows import command_line
from tests.infra.kubernetes_models import mistakes, refusals

FOLDER = Path(__file__).parents[2] / "infra/kubernetes"
KINDS = {
    "network-policy.yaml": "V1NetworkPolicy",
    "places.yaml": "V1ConfigMap",
    "ray-cluster.yaml": "RayCluster",
    "ray-job.yaml": "RayJob",
}


def read(name):
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def cluster():
    return read("ray-cluster.yaml")


def templates(cluster):
    """Return the pods of a RayCluster: the head's, then the workers'."""
    spec = cluster["spec"]
    return [one["template"] for one in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_every_field_is_one_of_its_type(name, kind):
    """Catches `volumeMount:` for `volumeMounts:`, a number for a quantity, a missing field."""
    content = read(name)
    assert mistakes(content, kind) == []
    api = {"V1NetworkPolicy": "networking.k8s.io/v1", "V1ConfigMap": "v1"}.get(kind, "ray.io/v1")
    assert (content["apiVersion"], content["kind"]) == (api, kind.removeprefix("V1"))


def test_the_check_sees_mistakes(cluster):
    """Catches a check that passes everything."""
    broken = copy.deepcopy(cluster)
    broken["spec"]["autoscaler"] = {}
    broken["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "4"
    pod = broken["spec"]["headGroupSpec"]["template"]["spec"]
    pod["containers"][0]["volumeMount"] = []
    pod["containers"][0]["resources"]["limits"]["cpu"] = 4
    del pod["volumes"][0]["name"]  # which the workers share with the head
    del broken["spec"]["workerGroupSpecs"][0]["groupName"]
    found = mistakes(broken, "RayCluster")
    assert len(found) == 7, "\n".join(found)
    assert any("groupName: WorkerGroupSpec must have it" in line for line in found)
    assert any("workerGroupSpecs[0].maxReplicas: '4' is no int" in line for line in found)


def test_kuberay_s_operator_has_no_objection(cluster):
    """Catches what every schema allows and the operator refuses: the cluster is then not made, and
    its events alone say why."""
    spec = cluster["spec"]
    assert refusals(spec) == []
    job = read("ray-job.yaml")
    # A time to live without the end of the cluster is refused, as are retries of a job that a
    # person submits; the name with what `create` puts after it is a label of DNS.
    assert job["spec"]["shutdownAfterJobFinishes"]
    assert job["spec"]["ttlSecondsAfterFinished"] >= 0
    assert job["spec"]["submissionMode"] != "InteractiveMode"
    for name in (job["metadata"]["generateName"] + "x" * 5, cluster["metadata"]["name"]):
        assert re.fullmatch("[a-z]([a-z0-9-]{0,45}[a-z0-9])?", name)
    broken = copy.deepcopy(spec)
    head = broken["headGroupSpec"]
    head["rayStartParams"]["labels"] = "a=b"
    head["template"]["spec"]["restartPolicy"] = "Always"
    (container,) = head["template"]["spec"]["containers"]
    container["env"] += [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]
    broken["rayVersion"] = "2.49.1"
    broken["workerGroupSpecs"][0]["template"]["spec"]["containers"] = []
    assert len(refusals(broken)) == 5


def test_the_job_s_cluster_is_the_cluster(cluster):
    """Catches a token, a limit or a mount that is put right in one of the two files."""
    assert read("ray-job.yaml")["spec"]["rayClusterSpec"] == cluster["spec"]


def test_the_job_s_command_is_one_that_the_flow_accepts():
    """Catches a recipe, a key or an option that is called otherwise by now."""
    words = read("ray-job.yaml")["spec"]["entrypoint"].split()
    assert words[:2] == ["ddpm", "run"]
    given = command_line._parser(command_line.TRAIN_DDPM).parse_args(words[2:])
    assert given.ray_address == "http://127.0.0.1:8265"
    changes = changes_of(given, given.target)
    assert changes["compute.use_gpu"] is True  # else a cluster without nodes yet counts as CPUs
    assert changes["compute.num_workers"] <= max(
        one["maxReplicas"] for one in read("ray-cluster.yaml")["spec"]["workerGroupSpecs"]
    )


def test_ray_asks_for_a_token_and_is_the_installed_one(cluster):
    """Catches a cluster that runs whatever anybody sends it, and another Ray than the image's."""
    spec = cluster["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "ddpm-ray"}
    assert spec["rayVersion"] == ray.__version__
    for pod in templates(cluster):
        (container,) = pod["spec"]["containers"]
        assert container["image"] == f"ddpm-pipeline:{__version__}-cuda"
        assert "RAY_AUTH_TOKEN" not in {one["name"] for one in container["env"]}


def test_gpu_nodes_come_when_they_are_needed_and_the_stages_wait(cluster):
    """Catches a group that stays, and stages that refuse a cluster whose nodes are yet to come."""
    spec = cluster["spec"]
    (group,) = spec["workerGroupSpecs"]
    assert spec["enableInTreeAutoscaling"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert group["maxReplicas"] > 0
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["resources"]["limits"] == worker["resources"]["requests"]
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert int({one["name"]: one.get("value") for one in head["env"]}[PATIENCE_VARIABLE]) >= 600
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pods_are_nobody_and_their_secrets_are_of_the_command_that_makes_them(cluster):
    """Catches a pod as root, and a Secret that the README does not say how to make."""
    readme = (FOLDER.parent / "README.md").read_text()
    for pod in templates(cluster):
        assert pod["spec"]["securityContext"]["runAsUser"] == 10001
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert mounted == {one["name"] for one in pod["spec"]["volumes"]}
        references = [one["valueFrom"] for one in container["env"] if "valueFrom" in one]
        keys = {one["secretKeyRef"]["key"] for one in references}
        secrets = [one["secret"] for one in pod["spec"]["volumes"] if "secret" in one]
        keys |= {item["key"] for one in secrets for item in one["items"]}
        for key in keys | {"auth_token"}:
            assert f"--from-literal={key}=" in readme or f"--from-file={key}=" in readme, key
        assert container["envFrom"] == [
            {"configMapRef": {"name": read("places.yaml")["metadata"]["name"]}}
        ]


def test_the_policy_covers_the_pods_and_opens_the_dashboard_alone(cluster):
    """Catches a policy whose labels no pod has, which lets everybody in."""
    spec = read("network-policy.yaml")["spec"]
    for pod in templates(cluster):
        assert spec["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert spec["policyTypes"] == ["Ingress"]
    among, others = spec["ingress"]
    assert among == {"from": [{"podSelector": spec["podSelector"]}]}
    assert [one["port"] for one in others["ports"]] == [8265]


def test_the_policy_lets_through_what_the_program_uses(cluster):
    """Catches a port that is opened in one file and used by another number in the next; and a
    policy that shuts in: names, S3, MLflow and Prefect are asked at whatever address is given."""
    spec = read("network-policy.yaml")["spec"]
    among, others = spec["ingress"]
    assert "ports" not in among  # of the many that Ray takes, only some can be fixed
    assert "egress" not in spec
    (dashboard,) = [one["port"] for one in others["ports"]]
    assert {one["protocol"] for one in others["ports"]} == {"TCP"}
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in head["ports"]}
    # Ray's own, and KubeRay's names of them, after which it makes the service.
    assert ports == {
        "gcs-server": ray_constants.DEFAULT_PORT,
        "dashboard": ray_constants.DEFAULT_DASHBOARD_PORT,
        "client": 10001,
    }
    assert dashboard == ports["dashboard"]
    assert "dashboard-port" not in cluster["spec"]["headGroupSpec"]["rayStartParams"]
    readme = (FOLDER.parent / "README.md").read_text()
    words = read("ray-job.yaml")["spec"]["entrypoint"] + " " + readme
    addresses = [urlsplit(one) for one in re.findall(r"http://[a-z0-9.-]+(?::[0-9]+)?", words)]
    used = {one.port for one in addresses if one.hostname in ("ddpm-head-svc.ddpm", "ray-head")}
    assert used == {dashboard}
    places = read("places.yaml")["data"]
    assert all(urlsplit(url).port for name, url in places.items() if name.endswith(("URL", "URI")))


def test_kustomize_puts_them_together(tmp_path):
    """Catches a file that the kustomization forgets, and an image that it does not find."""
    content = read("kustomization.yaml")
    there = {path.name for path in FOLDER.glob("*.yaml")}
    assert there == {*content["resources"], "kustomization.yaml", "ray-job.yaml"}
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: it alone knows what kustomize makes of the files")
    shutil.copytree(FOLDER, tmp_path / "k")
    path = tmp_path / "k/kustomization.yaml"
    path.write_text(path.read_text().replace("newName: ddpm-pipeline", "newName: example/ours"))
    done = subprocess.run(
        [kubectl, "kustomize", tmp_path / "k"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    made = list(yaml.safe_load_all(done.stdout))
    assert {one["metadata"]["namespace"] for one in made} == {"ddpm"}
    assert done.stdout.count(f"image: example/ours:{__version__}-cuda") == 2
