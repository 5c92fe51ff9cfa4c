"""What the store needs of a bucket that is not all its own: users, policies, tenants."""

import json
import uuid

import pytest

from ddpm_core.errors import StorageError
from ddpm_core.store.foreign_bucket import ForeignBucket
from ddpm_core.store.manifest import load
from ddpm_core.store.storage import KeyMissingError, S3Store, open_store
from tests.real_s3 import RealS3
from tests.store.small_commit import EXPECTED, FOLDER, STATE, commit_small

pytest_plugins = ["tests.s3_fixtures"]
pytestmark = pytest.mark.s3

RIGHTS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]


@pytest.fixture
def limited(real_s3: RealS3, real_s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be a user who may only use `mine/*` of a bucket; return its URI."""
    user, bucket = f"user{uuid.uuid4().hex}", f"limited-{uuid.uuid4().hex}"
    fs = real_s3_store._filesystem()
    fs.call_s3("create_bucket", Bucket=bucket)
    fs.call_s3("put_object", Bucket=bucket, Key="others/secret", Body=b"1")
    fs.call_s3("put_object", Bucket=bucket, Key="mine-too/secret", Body=b"1")
    environment = real_s3.add_user(user)
    whose = {"Effect": "Allow", "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]}}
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            whose | {"Action": RIGHTS, "Resource": f"arn:aws:s3:::{bucket}/mine/*"},
            whose
            | {
                "Action": ["s3:ListBucket"],
                "Resource": f"arn:aws:s3:::{bucket}",
                "Condition": {"StringLike": {"s3:prefix": ["mine/*"]}},
            },
        ],
    }
    fs.call_s3("put_bucket_policy", Bucket=bucket, Policy=json.dumps(policy))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{bucket}"


def test_rights_below_a_prefix_are_enough(limited: str):
    """Catches a look at the whole bucket, and the 403 of a missing key taken for no access."""
    store = open_store(f"{limited}/mine/runs")
    assert store.names("") == []
    assert not store.exists("a")
    with pytest.raises(KeyMissingError):
        store.read("a")
    assert load(store, FOLDER, EXPECTED) is None
    commit_small(store)
    commit_small(store)
    found = load(store, FOLDER, EXPECTED)
    assert found is not None
    assert found.read(store, "state") == STATE
    store.write("large", bytes(70 * 2**20))
    assert store.sizes("") == {"large": 70 * 2**20}
    store.delete("large")
    assert not store.exists("large")


def test_what_the_rights_do_not_cover_is_a_refusal(limited: str):
    """Catches "not there" said of what may not be looked at: a training that starts again."""
    for place in ("", "/others", "/mine-too"):
        with pytest.raises(StorageError, match=r"AccessDenied.*s3:ListBucket"):
            open_store(limited + place)
    for place in ("/others", "/mine-too"):
        store = S3Store(limited + place)
        for operate in (store.exists, store.read):
            with pytest.raises(StorageError, match="AccessDenied"):
                operate("secret")
            with pytest.raises(StorageError, match="AccessDenied"):
                operate("nothing")
        with pytest.raises(StorageError, match="AccessDenied"):
            store.create("new", b"1")


def test_images_below_a_prefix_need_no_other_rights(limited: str):
    """Catches a source that wants the list of the whole bucket."""
    open_store(f"{limited}/mine").write("images/a.png", b"1234")
    bucket = ForeignBucket(limited.removeprefix("s3://"))
    bucket.check("mine/images/")
    assert [one.key for one in bucket.objects("mine/images/")] == ["mine/images/a.png"]
    assert bucket.read("mine/images/a.png", 0, 4) == b"1234"


def test_a_bucket_of_a_tenant_is_used(
    real_s3: RealS3, real_s3_server: RealS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches Ceph's `tenant:bucket` refused, by us or by botocore."""
    del real_s3_server
    number = uuid.uuid4().hex
    for name, value in real_s3.add_user(f"user{number}", tenant=f"team{number}").items():
        monkeypatch.setenv(name, value)
    S3Store("s3://none")._filesystem().call_s3("create_bucket", Bucket="images")
    store = open_store(f"s3://team{number}:images/runs")
    commit_small(store)
    assert store.names("runs/a/checkpoints") == ["step_00001000"]
    found = load(open_store("s3://images/runs"), FOLDER, EXPECTED)
    assert found is not None
    assert found.read(store, "state") == STATE
    assert [one.size for one in ForeignBucket(f"team{number}:images").objects("runs/runs/a/c")]
