"""The files of feature networks that are called by a name: fetched once, into this user's cache."""

from pathlib import Path

from ddpm_core.config.feature_networks import KnownFile
from ddpm_core.sources.download import RemoteFile, downloads_folder, fetch


def fetched(name: str, known: KnownFile) -> Path:
    """Return where a known file lies on this machine, fetched if need be, with its digest.

    Args:
        name: by which it is called, e.g. "inception".
        known: the file.

    Raises:
        DataError: no address has it any more.
        StorageError: no address answers; both say where to put the file by hand.
    """
    place = downloads_folder() / "fetched"
    remote = RemoteFile(
        known.file,
        known.num_bytes,
        known.sha256,
        known.urls,
        public_only=True,
        key="evaluate.features",
        stage="evaluate",
        by_hand=f"fetch {known.urls[0]} on a machine that reaches it and put it, of "
        f"{known.num_bytes} bytes, here as {place / known.file} (evaluate.features={name} finds it "
        "there)",
    )
    return fetch(remote, place)
