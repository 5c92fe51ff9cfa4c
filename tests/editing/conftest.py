from tests.s3_fixtures import s3_endpoint_and_server, s3_environment, s3_server
from tests.sampling.tiny import _trained_root, one_thread, store, trained

__all__ = [
    "_trained_root",
    "one_thread",
    "s3_endpoint_and_server",
    "s3_environment",
    "s3_server",
    "store",
    "trained",
]
