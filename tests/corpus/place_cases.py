"""URIs of roots and sources, URLs of downloads, and what the environment says."""

from pathlib import Path

from tests.corpus.case import SHARD_IMAGES, Case

_SECRET = "hunter2"  # noqa: S105 - of nobody
_ACCEPTED = ("a path, file:///absolute/path, or s3://bucket/prefix",)
_SHA256 = "data.source_sha256=" + "0" * 64


def _file_in_the_way(here: Path) -> None:
    (here / "file").write_text("hello")


def _root(name: str, uri: str, *says: str, code: int = 2, never: tuple[str, ...] = ()) -> Case:
    arguments = ("train", "digits", f"--root={uri}", "--dry-run")
    return Case(f"root {name}", says, code, _file_in_the_way, arguments, never_says=never)


ROOTS = (
    _root("of a pipe", "pipe:touch canary", "'pipe:touch canary'", *_ACCEPTED),
    _root("on another host", "file://host/a", "'file://host/a'", *_ACCEPTED),
    _root("of a relative file URI", "file:a", "'file:a'", *_ACCEPTED),
    _root("without a bucket", "s3://", "'s3://'", *_ACCEPTED),
    _root("of one slash", "s3:/bucket", "'s3:/bucket'", *_ACCEPTED),
    _root("of an empty bucket", "s3:///a", "'s3:///a'", *_ACCEPTED),
    _root("of a bucket of two letters", "s3://bu/a", "'s3://bu/a'", *_ACCEPTED),
    _root("of a host with a port", "s3://host:9000/a", "AWS_ENDPOINT_URL", *_ACCEPTED),
    _root("of two slashes", "s3://bucket//a", "'s3://bucket//a'", *_ACCEPTED),
    _root("that climbs", "s3://bucket/../a", "'s3://bucket/../a'", *_ACCEPTED),
    _root("of a space", "s3://bucket/a b", "'s3://bucket/a b'", *_ACCEPTED),
    _root("of a version", "s3://bucket/a?versionId=1", "this storage URI", *_ACCEPTED),
    _root("of a fragment", "s3://bucket/a#b", "this storage URI", *_ACCEPTED),
    _root(
        "of a password",
        f"s3://user:{_SECRET}@bucket/a",
        "this storage URI",
        "credentials come from the environment",
        never=(_SECRET,),
    ),
    _root("of Google", "gs://bucket/a", "'gs://bucket/a'", *_ACCEPTED),
    _root("of Hadoop", "hdfs://host/a", "'hdfs://host/a'", *_ACCEPTED),
    _root("of the web", "https://host/a", "'https://host/a'", *_ACCEPTED),
    _root("of a scheme in capitals", "S3://bucket/a", "'S3://bucket/a'", *_ACCEPTED),
    _root("of a space alone", " ", "' '", *_ACCEPTED),
    _root("of a shell", "data:$(touch canary)", "data:$(touch canary)", *_ACCEPTED),
    _root("of an unknown user", "~nobody-here/a", "~nobody-here/a", *_ACCEPTED),
    _root("that is a file", "{here}/file", "{here}/file is a file", "give a folder"),
    _root("of 5000 letters", "/" + "a" * 5000, "choose a shorter root"),
    _root("of nothing", "", *_ACCEPTED),
    Case(
        "root below a file",
        ("{here}/file", "a file stands where a folder is needed"),
        6,
        _file_in_the_way,
        ("shard", "digits", "--root", "{here}/file/below"),
    ),
)


def _source(name: str, uri: str, *says: str, more: tuple[str, ...] = (), code: int = 3) -> Case:
    arguments = (*SHARD_IMAGES[:5], f"data.source={uri}", *SHARD_IMAGES[6:], *more)
    return Case(f"source {name}", says, code, arguments=arguments, never_says=(_SECRET,))


def _url(name: str, url: str, *says: str, code: int = 3) -> Case:
    return _source(f"at {name}", url, *says, more=("--set", _SHA256), code=code)


_KINDS = "an archive at https://"
_NOT_PUBLIC = ("is no public address", "give its path")
SOURCES = (
    _source("of a pipe", "pipe:touch canary", "pipe:touch canary"),
    _source("on another host", "file://host/a", "file://host/a", _KINDS, code=2),
    _source("of Google", "gs://bucket/a", "gs://bucket/a", _KINDS, code=2),
    _source("over http", "http://host/a.zip", "http://host/a.zip", _KINDS, code=2),
    _source("over ftp", "ftp://host/a.zip", "ftp://host/a.zip", _KINDS, code=2),
    _source("without a bucket", "s3://", "s3://bucket/prefix", code=2),
    _source("of a password", f"s3://user:{_SECRET}@bucket/a", "credentials come from", code=2),
    _source(
        "of a password on the web",
        f"https://user:{_SECRET}@host/a.zip",
        "credentials come from",
        code=2,
    ),
    _source("on the web without a digest", "https://host/a.zip", "data.source_sha256", code=2),
    _source("by default", "default", "--set data.source=PLACE", code=2),
    _source("of an unknown user", "~nobody-here/a", "~nobody-here", code=2),
    _source("of 5000 letters", "/" + "a" * 5000, "data.source", "give another", code=2),
    _source("of a NUL", "a\0b", "data.source", code=2),
    _url("this machine", "https://127.0.0.1/a.zip", *_NOT_PUBLIC),
    _url("this machine by name", "https://localhost/a.zip", *_NOT_PUBLIC),
    _url("this machine in IPv6", "https://[::1]/a.zip", *_NOT_PUBLIC),
    _url("this machine in decimal", "https://2130706433/a.zip", *_NOT_PUBLIC),
    _url("this machine in hexadecimal", "https://0x7f.1/a.zip", *_NOT_PUBLIC),
    _url("this machine in octal", "https://0177.0.0.1/a.zip", *_NOT_PUBLIC),
    _url("this machine in IPv4 in IPv6", "https://[::ffff:127.0.0.1]/a.zip", *_NOT_PUBLIC),
    _url("any address", "https://0.0.0.0/a.zip", *_NOT_PUBLIC),
    _url("a cloud's credentials", "https://169.254.169.254/a.zip", *_NOT_PUBLIC),
    _url("a private network", "https://10.0.0.1/a.zip", *_NOT_PUBLIC),
    _url("a private network in IPv6", "https://[fd00::1]/a.zip", *_NOT_PUBLIC),
    _url("no archive", "https://host/a.exe", "a.exe"),
    _url("no host", "https:///a.zip", _KINDS, code=2),
    _source(
        "of a digest that is none",
        "https://host/a.zip",
        "data.source_sha256",
        "64 digits 0-9 and a-f",
        more=("--set", "data.source_sha256=abc"),
        code=2,
    ),
)


def _env(name: str, variable: str, value: str, *says: str, code: int = 2, root: str = "") -> Case:
    arguments = ("train", "digits", "--root", root or "{here}/root", "--dry-run")
    return Case(
        f"environment {name}",
        says,
        code,
        arguments=arguments,
        environment={variable: value},
        never_says=(_SECRET,),
    )


_MLFLOW = "MLFLOW_TRACKING_URI"
ENVIRONMENTS = (
    _env("of MLflow's folder", _MLFLOW, "./mlruns", _MLFLOW, "'./mlruns'", "unset it"),
    _env("of MLflow's file URI", _MLFLOW, "file:///tmp/mlruns", _MLFLOW, "unset it"),
    _env("of a relative database", _MLFLOW, "sqlite:///mlflow.db", _MLFLOW, "sqlite:////absolute"),
    _env("of an unknown scheme", _MLFLOW, f"ftp://u:{_SECRET}@host", _MLFLOW, "http(s)://"),
    _env("of a server without a scheme", _MLFLOW, "localhost:5000", _MLFLOW, "http(s)://"),
    _env("of a home that is not there", "HOME", "/absent/home", "would run on", code=0),
    _env("of a folder for files that is not there", "TMPDIR", "/absent", "would run on", code=0),
    _env("of ASCII", "LC_ALL", "C", "would run on", code=0),
    _env("of a Ray left over", "RAY_ADDRESS", "10.9.9.9:6379", "would run on", code=0),
    _env(
        "of an endpoint without a scheme",
        "AWS_ENDPOINT_URL_S3",
        "localhost:9000",
        "AWS_ENDPOINT_URL_S3",
        root="s3://bucket/a",
    ),
)

CASES = (*ROOTS, *SOURCES, *ENVIRONMENTS)
