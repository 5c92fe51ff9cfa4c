"""The options of S3, from the environment and the AWS files, and what its answers mean.

Of the libraries it knows only how botocore reads `~/.aws`.
"""

import os
import re
from typing import Any, NamedTuple

from ddpm_core.errors import ConfigError

MISSING = frozenset({"NoSuchKey"})
PERHAPS_MISSING = frozenset({"404", "NotFound", "AccessDenied", "403"})
"""A proxy, or the bucket, may be what is not found; and S3 answers 403 for a missing key where the
user may not list the bucket."""
REFUSED_CREATE = frozenset({"PreconditionFailed", "412"})
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
RENEWED = EXPIRED | {
    "InvalidAccessKeyId",
    "InvalidToken",
    "NoCredentialsError",
    "PartialCredentialsError",
}
"""what may be over once the credentials are looked up again: a client keeps those, or the lack of
them, with which it was made"""
_PASSING = frozenset(
    {
        "SlowDown",
        "RequestTimeout",
        # Two writers of one key at once: the second may come when the first is done.
        "ConditionalRequestConflict",
        "409",
        "OperationAborted",
        # The body changed or was cut on its way up.
        "XAmzContentSHA256Mismatch",
        "BadDigest",
        "IncompleteBody",
    }
)
_NETWORK = frozenset(
    {
        "HTTPClientError",
        "ConnectionError",
        "ResponseParserError",
        "IncompleteReadError",
        # The credentials provider of a machine or a pod does not answer.
        "CredentialRetrievalError",
        "MetadataRetrievalError",
    }
)
"""what botocore calls it when nothing, or nonsense, comes back"""
_ENDPOINT = re.compile(
    r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[A-Za-z0-9._/-]*)?"
)
_REMEDIES = {
    "NoSuchBucket": "create the bucket or correct its name",
    **dict.fromkeys(
        ("AccessDenied", "403"),
        "check the credentials; the bucket's policy must allow them s3:ListBucket, s3:GetObject, "
        "s3:PutObject and s3:DeleteObject below this prefix",
    ),
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID, or the profile in ~/.aws",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY, or the profile in ~/.aws",
    "RequestTimeTooSkewed": "set the clock of this machine: it differs from the server's",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's region",
    **dict.fromkeys(
        ("NoCredentialsError", "PartialCredentialsError"),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws",
    ),
    "CredentialRetrievalError": "see to what gives this machine or profile its credentials",
    "NotImplemented": "use a storage that knows conditional writes (If-None-Match)",
    **dict.fromkeys(EXPIRED, "renew the credentials: they have expired"),
}
_OTHER_REMEDY = (
    "check AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL and the network, then run again: "
    "nothing is taken for missing while the storage does not answer"
)


def s3_options() -> dict[str, Any]:
    """Return endpoint, region, timeouts and retries as s3fs takes them; never credentials.

    Raises:
        ConfigError: the endpoint is no http(s)://host:port; it is not repeated. Or the AWS files
            cannot be read, or lack the profile that is named.
    """
    of_files = _aws_files()
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL")
    given = [(name, os.environ[name]) for name in names if os.environ.get(name)]
    if of_files.ignores_endpoints:
        given = [(name, url) for name, url in given if not name.startswith("AWS_")]
    elif of_files.endpoint:
        given.append(("endpoint_url of the AWS configuration file", of_files.endpoint))
    name, endpoint = given[0] if given else ("", None)
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        raise ConfigError(
            f"{name} must read http://host:port or https://host:port, without user, password or "
            "options; correct it"
        )
    region = os.environ.get("AWS_REGION") or of_files.region
    config: dict[str, Any] = {
        "connect_timeout": 5,
        "read_timeout": 15,
        # `s3_operation` tries again. Not max_attempts: botocore would rewrite it in place, and
        # equal options compare unequal.
        "retries": {"mode": "standard", "total_max_attempts": 1},
        # Our own SHA-256 is checked on every read; some servers refuse these.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if endpoint:
        # A server of one's own has no region, and no host name for each bucket.
        region = region or "us-east-1"
        config["s3"] = {"addressing_style": of_files.addressing or "path"}
    return {
        "endpoint_url": endpoint,
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": config,
    }


class _AwsFiles(NamedTuple):
    endpoint: str | None
    region: str | None
    """of AWS_DEFAULT_REGION before that of the files"""
    addressing: str | None
    ignores_endpoints: bool


def _aws_files() -> _AwsFiles:
    """Return what botocore finds in `~/.aws` for the profile that is in use."""
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session()
        profile = session.get_scoped_config()
        # An empty environment: `s3_options` has looked there, and knows one name more.
        endpoint = ConfiguredEndpointProvider(
            full_config=session.full_config, scoped_config=profile, client_name="s3", environ={}
        ).provide()
        region = session.get_config_variable("region")
        ignores = bool(session.get_config_variable("ignore_configured_endpoint_urls"))
    except BotoCoreError as error:
        raise ConfigError(
            f"the AWS configuration cannot be used: {error}; correct AWS_PROFILE, or ~/.aws/config "
            "(or the file that AWS_CONFIG_FILE names)"
        ) from None
    of_s3 = profile.get("s3")
    addressing = of_s3.get("addressing_style") if isinstance(of_s3, dict) else None
    return _AwsFiles(endpoint, region, addressing, ignores)


def code_of(error: BaseException) -> str:
    """Return the server's word for an error, or the name of its class if none came from there."""
    answer = _answer_in(error)
    name = type(error).__name__
    return name if answer is None else str(answer.get("Error", {}).get("Code", name))


def may_pass(error: BaseException) -> bool:
    """Say whether the same request may succeed later: the server is away, busy, or misheard."""
    answer = _answer_in(error)
    if answer is not None:
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        busy = status in (408, 429) or (status >= 500 and status != 501)
        return busy or code_of(error) in _PASSING
    # Without an answer: the network, unless a library says that the question is at fault.
    names = {kind.__name__ for kind in type(error).__mro__}
    if "SSLError" in names:  # a certificate that is not trusted
        return False
    return bool(names & _NETWORK) or not names & {"BotoCoreError", "PermissionError"}


def explained(error: BaseException, last: BaseException | None, spent: str) -> str:
    """Return `what was said (what it took); what to do`, without anything that may hold a secret.

    Args:
        error: what ended the operation.
        last: what was answered by trying again before; None: nothing was.
        spent: how often and how long it was tried.
    """
    if not isinstance(error, TimeoutError) or _answer_in(error) is not None:
        said, last = _said(error), error
    elif last is not None:
        said = f"no answer in time, but {_said(last)}"
    else:
        said, last = "no answer in time", error
    return f"{said} ({spent}); {_REMEDIES.get(code_of(last), _OTHER_REMEDY)}"


def _said(error: BaseException) -> str:
    # The server's text may quote the request.
    answer = _answer_in(error)
    return code_of(error) if answer is not None else f"{type(error).__name__}: {error}"


def _answer_in(error: BaseException) -> dict[str, Any] | None:
    """Return the server's answer that led to the error, if it has spoken."""
    cause: BaseException | None = error
    while cause is not None:
        answer = getattr(cause, "response", None)
        if isinstance(answer, dict):
            return answer
        cause = cause.__cause__
    return None
