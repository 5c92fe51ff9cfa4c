"""One operation on S3: its requests, each retried until the deadline of the operation.

Nothing else below a stage retries: botocore and s3fs try once. Objects carry their SHA-256 as
metadata, so that bytes that changed on the way are detected.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from ddpm_core.store.content import BLOCK_BYTES, Content, sha256_of
from ddpm_core.store.s3 import code_of, may_pass

T = TypeVar("T")

DEADLINE_S = 30.0  # of an operation with all its requests, and more for what it carries:
PART_BYTES = BLOCK_BYTES  # what is longer than two of these goes up in parts
_SLOWEST_BYTES_PER_S = 2**18  # a transfer below this counts as stuck
# Until an answer begins. Libraries have no limit of their own for "100 Continue", before a body.
_ANSWER_TIMEOUT_S = 15.0
_NUM_LOOKS = 3  # at a body that arrives changed
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_NUM_PARTS_AT_ONCE = 4
_MAX_COPIED_BYTES = 5 * 10**9  # by one request
# Answers of InternalError to a completion, some ten seconds of them, before all parts go up anew.
# A gateway of Ceph's that is killed while it completes leaves the upload locked for ten minutes.
_NUM_COMPLETIONS = 7
_DIGEST = "sha256"  # S3 prefixes it: x-amz-meta-sha256


class ChangedOnTheWayError(OSError):
    """What arrived is not what was sent: another length, or another SHA-256."""


def vendor_errors() -> tuple[type[Exception], ...]:
    """Return what s3fs and the libraries below it raise."""
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, aiohttp.ClientError, BotoCoreError, ClientError)


class Operation:
    """The requests of one method of the store; used once, by `run`."""

    def __init__(self, filesystem: Any, bucket: str, *, deadline_s: float) -> None:  # noqa: ANN401
        """See `run`; `filesystem` is an s3fs, which is untyped."""
        self._filesystem, self._bucket, self._deadline_s = filesystem, bucket, deadline_s
        self._errors = vendor_errors()
        self._timeout = asyncio.Timeout(None)
        self.num_tries = 0
        """requests that were made"""
        self.etag = ""
        """of the object that was read last; "" if the server gave none"""
        self.last: BaseException | None = None
        """the last error that was answered by trying again"""

    async def run(self, ask: Callable[["Operation"], Awaitable[T]]) -> T:
        """Return what `ask(self)` returns; TimeoutError if the time is up before."""
        self._start_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(self._deadline_s) as self._timeout:
            return await ask(self)

    async def request(self, method: str, **words: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return S3's answer to `method`, whose words are named and typed as S3 does."""
        return await self._persist(lambda: self._once(method, **words))

    async def get(self, *, checked: bool, **words: str) -> bytes:
        """Return the bytes of an object, or of the `Range` of it that is given."""
        return await self._persist(lambda: self._body(words, checked=checked))

    async def put(self, key: str, data: bytes, sha256: str, **words: str) -> None:
        """Put an object in one request; with IfNoneMatch="*" only if there is none."""
        self._carry(len(data))
        metadata = {_DIGEST: sha256}
        await self.request("put_object", Key=key, Body=data, Metadata=metadata, **words)

    async def copy(self, source: str, target: str) -> bool:
        """Have the server copy an object, with its metadata; return False if it is too long."""
        found = await self.request("head_object", Key=source)
        size, place = int(found["ContentLength"]), {"Bucket": self._bucket, "Key": source}
        if size > _MAX_COPIED_BYTES:
            return False
        self._carry(size)
        words: dict[str, Any] = {"Key": target, "CopySource": place}
        await self._persist(lambda: self._once("copy_object", num_bytes=size, **words))
        return True

    async def put_in_parts(self, key: str, data: Content, sha256: str) -> None:
        """Put a long object, which is there only when all of its parts have arrived."""
        self._carry(len(data))
        while not await self._upload(key, data, {_DIGEST: sha256}):
            pass  # until the time is up

    async def _upload(self, key: str, data: Content, metadata: dict[str, str]) -> bool:
        started = await self.request("create_multipart_upload", Key=key, Metadata=metadata)
        upload = {"Key": key, "UploadId": started["UploadId"]}
        is_done = False
        try:
            parts = await self._parts(upload, data)
            try:
                is_done = await self._complete(upload, parts)
            except self._errors as error:
                # Completed before, when the reply was lost? Then it is known no more.
                if code_of(error) != "NoSuchUpload":
                    raise
                there = await self.request("head_object", Key=key)
                if there["Metadata"] != metadata:
                    raise
                is_done = True
        finally:
            if not is_done:
                with suppress(*self._errors):  # the first error is the one to hear of
                    async with asyncio.timeout(1):
                        await self._once("abort_multipart_upload", **upload)
        return is_done

    async def _complete(self, upload: dict[str, str], parts: list[dict[str, Any]]) -> bool:
        """Return False if the server is there and cannot: see `_NUM_COMPLETIONS`."""
        words: dict[str, Any] = {"MultipartUpload": {"Parts": parts}, **upload}
        num_failures = 0

        async def attempt() -> bool:
            nonlocal num_failures
            try:
                await self._once("complete_multipart_upload", **words)
            except self._errors as error:
                num_failures += code_of(error) == "InternalError"
                if num_failures == _NUM_COMPLETIONS:
                    self.last = error
                    return False
                raise
            return True

        return await self._persist(attempt)

    async def _parts(self, upload: dict[str, str], data: Content) -> list[dict[str, Any]]:
        free = asyncio.Semaphore(_NUM_PARTS_AT_ONCE)

        async def put_part(number: int, start: int) -> dict[str, Any]:
            async with free:
                part = data[start : start + PART_BYTES]
                words = {"PartNumber": number, "Body": part, **upload}
                answer = await self.request("upload_part", **words)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        starts = enumerate(range(0, len(data), PART_BYTES), 1)
        tasks = [asyncio.ensure_future(put_part(number, start)) for number, start in starts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _once(
        self,
        method: str,
        *,
        num_bytes: int = 0,
        **words: Any,  # noqa: ANN401 - as S3 names and types them
    ) -> dict[str, Any]:
        """Make one request; `num_bytes` are those that the server moves for it."""
        self.num_tries += 1
        num_bytes += len(words.get("Body", b""))
        timeout_s = _ANSWER_TIMEOUT_S + num_bytes / _SLOWEST_BYTES_PER_S
        async with asyncio.timeout(timeout_s):
            answer: dict[str, Any] = await self._filesystem._call_s3(
                method, Bucket=self._bucket, **words
            )
        return answer

    async def _body(self, words: dict[str, Any], *, checked: bool) -> bytes:
        answer = await self._once("get_object", **words)
        announced: int = answer["ContentLength"]
        self.etag = str(answer.get("ETag", ""))
        self._carry(announced)
        async with answer["Body"] as body:
            data: bytes = await body.read()
        if len(data) != announced:
            raise ChangedOnTheWayError(f"{len(data)} of {announced} bytes arrived")
        total = answer.get("ContentRange", f"/{announced}").rpartition("/")[2]
        expected = answer.get("Metadata", {}).get(_DIGEST)
        if checked and expected is not None and total == str(announced):
            found = await asyncio.to_thread(sha256_of, data)
            if found != expected:
                raise ChangedOnTheWayError(
                    f"SHA-256 {found[:16]} arrived, {expected[:16]} was written"
                )
        return data

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        num_looks, wait_s = 0, _FIRST_WAIT_S
        while True:
            try:
                return await attempt()
            except self._errors as error:
                num_looks += isinstance(error, ChangedOnTheWayError)
                if not may_pass(error) or num_looks == _NUM_LOOKS:
                    raise
                self.last = error
            # Many workers that lost the same server do not come back at the same moment.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _carry(self, num_bytes: int) -> None:
        """Lengthen the deadline to what these bytes may take; a second try gets no more."""
        end_s = self._start_s + self._deadline_s + num_bytes / _SLOWEST_BYTES_PER_S
        if (until_s := self._timeout.when()) is None or end_s > until_s:
            self._timeout.reschedule(end_s)
