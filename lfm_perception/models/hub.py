# SPDX-License-Identifier: Apache-2.0
"""Pulls a model from a hub: resumed after interruptions, and verified before the model gets its name.

huggingface_hub provides addresses, tokens, proxies and errors (HF_ENDPOINT, HF_TOKEN, HTTPS_PROXY). The bytes
are written here, because `hf_hub_download` (2.4) deletes its partial file when a download fails, and never
reuses the partial file of a process that ended: on a slow link, a model of 3 GB would start again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.models.registry import COMMIT, SHA256, HubFile, Model
from lfm_perception.models.store import Store, StoredFile, StoredModel, check_files, free_bytes, measure

SPARE_BYTES = 64 << 20
"""Disk space that a pull leaves free, bytes."""

TRIES = 4
PAUSE_S = 0.5
"""Number of requests without progress, and the pause between them in seconds, before a pull fails."""

MIN_PROGRESS_BYTES = 64 << 10
"""Progress of a request, and of every HF_HUB_DOWNLOAD_TIMEOUT during it, in bytes of the promised file."""

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes received so far, and its size in bytes."""

_PARTIAL_CONTENT = 206
_MAX_REASON = 120


def pull(
    model: Model,
    store: Store,
    *,
    mmproj: str | None = None,
    revision: str | None = None,
    notify: Callable[[str], None] = lambda sentence: None,
    on_progress: Progress = lambda file, done, size: None,
) -> StoredModel:
    """Download a model into the store, or resume an interrupted pull.

    Args:
        mmproj: Quantization of the vision file; the recommended one by default.
        revision: Commit or branch instead of the pinned one; the hub's checksums are then used.
        notify: Receives a sentence about each file.

    Raises:
        PerceptionError: The pull failed; the store has no model of that name.
    """
    files = [_chosen(model, file, revision) for file in (model.file, model.mmproj(mmproj))]
    store.check_name(model.name)
    with store.preparing(model.name) as folder, _hub_errors(model.repo):
        remotes = [_look_up(model, file) for file in files]
        _check_room(folder, remotes)
        stored = []
        for remote in remotes:
            notify(f"{remote.file} of {model.repo} at {remote.revision}, SHA-256 {remote.sha256}")
            stored.append(_fetch(folder, model.repo, remote, on_progress))
        source = f"{model.repo}@{remotes[0].revision}"
        pulled = StoredModel(model.name, folder, stored[0], stored[1], source, model.settings)
        try:
            check_files(*pulled.files)
        except PerceptionError:
            for path in pulled.files:  # the hub's own files are unusable
                path.unlink()
            raise
        return store.finish(pulled)


def _chosen(model: Model, file: HubFile, revision: str | None) -> HubFile:
    if revision is not None:
        return HubFile(file.file, revision)
    if not file.pinned:
        raise PerceptionError(
            f"{file.file} of {model.name} is not pinned yet, its checksum is unknown: give "
            "--revision main to pull the hub's current file, which is verified from then on"
        )
    return file


def _look_up(model: Model, file: HubFile) -> HubFile:
    """The file on the hub, with its commit. Raises PerceptionError when it differs from the pinned file."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(model.repo, file.file, revision=file.revision)
    metadata = get_hf_file_metadata(url)
    size, commit, etag = metadata.size, metadata.commit_hash or "", (metadata.etag or "").lower()
    if size is None or not COMMIT.fullmatch(commit):
        raise PerceptionError(f"{url} does not answer like a hub: is HF_ENDPOINT right?")
    sha256 = etag if SHA256.fullmatch(etag) else file.sha256
    if file.pinned and (size, sha256) != (file.size, file.sha256):
        raise PerceptionError(
            f"the hub has another {file.file} than is pinned: {size} bytes with SHA-256 {sha256}, "
            f"pinned are {file.size} bytes with {file.sha256}"
        )
    if not sha256:
        raise PerceptionError(
            f"the hub states no SHA-256 of {file.file}, so a pull cannot be verified: "
            "download it yourself and use lfm-perception models add"
        )
    return HubFile(file.file, commit, size, sha256)


def _check_room(folder: Path, remotes: list[HubFile]) -> None:
    needed = sum(remote.size for remote in remotes) + SPARE_BYTES
    names = {name for remote in remotes for name in (Path(remote.file).name, f"{remote.sha256}.part")}
    needed -= sum(path.stat().st_size for path in folder.iterdir() if path.name in names)
    free = free_bytes(folder)
    if needed > free:
        raise PerceptionError(
            f"{folder.parent} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed: "
            "make room, or set HF_HOME to a folder on another disk"
        )


def _fetch(folder: Path, repo: str, remote: HubFile, on_progress: Progress) -> StoredFile:
    """Download the file into the folder, unless it is there, and verify it."""
    name = Path(remote.file).name
    complete = folder / name
    if not complete.is_file() or measure(complete)[1] != remote.sha256:
        part = folder / f"{remote.sha256}.part"
        _load(repo, remote, part, on_progress)
        _, sha256 = measure(part)
        if sha256 != remote.sha256:
            part.unlink()
            raise PerceptionError(
                f"{name} arrived with SHA-256 {sha256}, expected {remote.sha256}: it was damaged on the way, "
                "pull again"
            )
        part.replace(complete)
    return StoredFile(name, remote.size, remote.sha256)


def _load(repo: str, remote: HubFile, part: Path, on_progress: Progress) -> None:
    """Complete the partial file, with a new request after each interruption as long as the file grows.

    Raises PerceptionError when `TRIES` requests in a row bring nothing new, or an answer is not the file.
    """
    from httpx2 import TransportError

    part.touch()
    if part.stat().st_size > remote.size:
        os.truncate(part, 0)
    longest, tries = part.stat().st_size, TRIES
    while (size := part.stat().st_size) < remote.size:
        reason = "the answer ended early"
        try:
            _append(repo, remote, part, size, on_progress)
        except TransportError as error:
            reason = _first_line(error)
        size = part.stat().st_size
        if size >= min(longest + MIN_PROGRESS_BYTES, remote.size):
            longest, tries = size, TRIES
        elif tries > 1:
            tries -= 1
            time.sleep(PAUSE_S)
        else:
            raise PerceptionError(
                f"{remote.file} does not come, {size} of {remote.size} bytes were received ({reason}): "
                "check the network and HTTPS_PROXY, and pull again; received bytes are kept"
            )


def _append(repo: str, remote: HubFile, part: Path, size: int, on_progress: Progress) -> None:
    """Request the bytes from `size` on and append them, but never more than the file has.

    A hub that does not know ranges sends the whole file, which then replaces the partial one.
    """
    from httpx2 import ReadTimeout
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = hf_hub_url(repo, remote.file, revision=remote.revision)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={size}-"}
    with get_session().stream("GET", url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        begin = size if response.status_code == _PARTIAL_CONTENT else 0
        if problem := _contradiction(response.headers, begin, remote.size):
            raise PerceptionError(
                f"the answer for {remote.file} is not the file ({problem}): check whether a proxy or a "
                "log-in page answers in place of the hub, and pull again"
            )
        with part.open("r+b") as file:
            file.truncate(begin)
            file.seek(begin)
            judged_s, judged_bytes = time.monotonic(), begin
            for block in response.iter_raw():
                file.write(block[: remote.size - file.tell()])
                on_progress(remote.file, file.tell(), remote.size)
                if file.tell() == remote.size:
                    break
                if file.tell() >= judged_bytes + MIN_PROGRESS_BYTES:
                    judged_s, judged_bytes = time.monotonic(), file.tell()
                elif time.monotonic() - judged_s > HF_HUB_DOWNLOAD_TIMEOUT:
                    raise ReadTimeout("the transfer is too slow")
            file.flush()
            os.fsync(file.fileno())


def _contradiction(headers: Mapping[str, str], begin: int, size: int) -> str:
    """How the headers of an answer contradict a file of `size` bytes sent from `begin` on; or nothing."""
    encoding, length = headers.get("Content-Encoding", "identity"), headers.get("Content-Length")
    range_ = headers.get("Content-Range")
    if encoding != "identity":
        return f"it is encoded as {shown(encoding)}"
    if length is not None and length != str(size - begin):
        return f"it has {length:.20} bytes, not {size - begin}"
    if begin and range_ != f"bytes {begin}-{size - 1}/{size}":
        return f"it is the range {shown(range_)}, not the bytes from {begin} on"
    return ""


def _first_line(error: Exception) -> str:
    """The reason without the address, which may hold a signature."""
    line = (str(error) or type(error).__name__).splitlines()[0].strip()
    return re.sub(r" for url \S+", "", line)[:_MAX_REASON]


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn errors of the hub and the network into PerceptionError."""
    try:
        from httpx2 import HTTPError
        from huggingface_hub import errors
    except ImportError as error:
        raise PerceptionError(
            "pulling models needs huggingface_hub: pip install 'lfm_perception[models]', "
            "or download the files yourself and use lfm-perception models add"
        ) from error
    sentences = {  # a subclass before its base
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set, so nothing can be pulled: unset it, or use "
        "lfm-perception models add",
        errors.GatedRepoError: f"the hub restricts access to {repo}: request access there, and set HF_TOKEN",
        errors.RepositoryNotFoundError: f"the hub has no repository {repo}, or HF_TOKEN has no access to it",
        errors.RevisionNotFoundError: f"the hub's {repo} has no such revision: is it a commit or branch?",
        errors.EntryNotFoundError: f"the hub's {repo} has no such file: {{error}}",
        (HTTPError, OSError): "the hub cannot be reached or broke off ({error}): check the network and "
        "HTTPS_PROXY, and pull again; received bytes are kept",
    }
    try:
        yield
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        sentence = next(text for kind, text in sentences.items() if isinstance(error, kind))
        raise PerceptionError(sentence.replace("{error}", _first_line(error))) from error
