"""The client of S3, with our options: the only file that knows fsspec, s3fs and botocore."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

from ddpm_core.errors import ConfigError
from ddpm_core.store.s3 import s3_options

T = TypeVar("T")


def on_its_thread(
    filesystem: Any,  # noqa: ANN401 - s3fs is untyped
    run: Callable[..., Awaitable[T]],
    *arguments: object,
) -> T:
    """Return what `run(*arguments)` returns on the thread of all filesystems of s3fs."""
    from fsspec.asyn import sync

    answer: T = sync(filesystem.loop, run, *arguments)
    return answer


def filesystem_of(bucket: str) -> Any:  # noqa: ANN401 - s3fs is untyped
    """Return an s3fs with our options, and the endpoint and region of the environment."""
    try:
        import s3fs
        from aiobotocore.session import AioSession
        from botocore.handlers import validate_bucket_name
    except ImportError:
        raise ConfigError("s3:// needs s3fs: pip install 'ddpm-pipeline[s3]'") from None

    options = s3_options()  # first: it says what is wrong with the files of AWS
    session = AioSession()
    session.register_component("data_loader", models_of_s3())
    if ":" in bucket:  # tenant:bucket, which Ceph knows and botocore takes for a mistake
        session.unregister("before-parameter-build.s3", validate_bucket_name)
    made = s3fs.S3FileSystem(
        **options, session=session, use_listings_cache=False, skip_instance_cache=True
    )
    made.retries = 1  # `s3_operation` tries again
    return made


@cache
def models_of_s3() -> Any:  # noqa: ANN401 - botocore is untyped
    """Return botocore's loader of its own data files, which has read those of S3.

    Every session would read them again inside its first request, 0.2 s of a core: on a busy machine
    longer than a server may take, which then seems not to answer. So they are read once in a
    process, by the thread of the caller, before the clock of an operation starts.
    """
    from botocore.session import Session

    loader = Session().get_component("data_loader")
    loader.load_service_model("s3", "service-2")
    loader.load_service_model("s3", "endpoint-rule-set-1")
    for name in ("endpoints", "partitions", "_retry", "sdk-default-configuration"):
        loader.load_data(name)
    return loader
