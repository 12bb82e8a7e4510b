"""Pulling a model from a hub: resumed after every cut, checked before it has its name.

huggingface_hub knows the hub: its addresses, tokens, proxies and errors (HF_ENDPOINT, HF_TOKEN, HTTPS_PROXY).
The bytes are written here, since it throws away what came before a cut.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lfm_perception.engine import gguf
from lfm_perception.errors import PerceptionError
from lfm_perception.models.registry import COMMIT, SHA256, HubFile, Model
from lfm_perception.models.store import Store, StoredFile, StoredModel, free_bytes, measure

SPARE_BYTES = 64 << 20
"""Room that a pull leaves on the disk."""

TRIES = 5
PAUSE_S = 1.0
"""So often, and with this pause, is a hub asked again of which nothing came."""

Progress = Callable[[str, int, int], None]
"""Hears of a file's name, the bytes that have come, and all of them."""

_PARTIAL_CONTENT = 206


@dataclass(frozen=True, slots=True)
class _Remote:
    """A file as the hub has it, at a commit. `size` in bytes."""

    file: str
    url: str
    revision: str
    size: int
    sha256: str


def pull(
    model: Model,
    store: Store,
    *,
    mmproj: str | None = None,
    revision: str | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
    progress: Progress = lambda file, done, size: None,
) -> StoredModel:
    """Bring a model into the store, or go on with a pull that was broken off.

    `mmproj` names the quantization of the vision file, `revision` a commit or branch instead of the pinned
    one; its checksums are then the hub's. Raises PerceptionError with what is wrong and the way out; the
    store then has no model of that name.
    """
    wanted = [_chosen(model, file, revision) for file in (model.file, model.mmproj(mmproj))]
    store.check_name(model.name)
    with store.preparing(model.name) as folder, _hub_errors(model.repo):
        remotes = [_look_up(model, file) for file in wanted]
        _check_room(folder, remotes)
        files = []
        for remote in remotes:
            tell(f"{remote.file} of {model.repo} at {remote.revision}, SHA-256 {remote.sha256}")
            files.append(_fetch(folder, remote, progress))
        try:
            gguf.check_pair(*(folder / file.path for file in files))
        except PerceptionError:
            for file in files:  # what the hub has under these names is no use
                (folder / file.path).unlink()
            raise
        source = f"{model.repo}@{remotes[0].revision}"
        return store.finish(model.name, folder, files[0], files[1], source, model.settings)


def _chosen(model: Model, file: HubFile, revision: str | None) -> HubFile:
    if revision is not None:
        return HubFile(file.file, revision)
    if not file.pinned:
        raise PerceptionError(
            f"{file.file} of {model.name} is not pinned yet, no checksum of it is known here: give "
            "--revision main to take what the hub has now; that is checked from then on"
        )
    return file


def _look_up(model: Model, file: HubFile) -> _Remote:
    """Ask the hub for the file; refuse another one than was pinned."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(model.repo, file.file, revision=file.revision)
    about = get_hf_file_metadata(url)
    told = (about.etag or "").lower()
    told = told if SHA256.fullmatch(told) else ""
    if not about.commit_hash or not COMMIT.fullmatch(about.commit_hash) or about.size is None:
        raise PerceptionError(f"{url} is not answered as a hub answers: is HF_ENDPOINT right?")
    if file.pinned and (about.size, told or file.sha256) != (file.size, file.sha256):
        raise PerceptionError(
            f"the hub has another {file.file} than is pinned: {about.size} bytes with SHA-256 "
            f"{told or 'unknown'}, pinned are {file.size} bytes with {file.sha256}"
        )
    sha256 = file.sha256 or told
    if not sha256:
        raise PerceptionError(
            f"the hub tells no SHA-256 of {file.file}, so a pull cannot be checked: "
            "download it yourself and use lfm-perception models add"
        )
    exactly = hf_hub_url(model.repo, file.file, revision=about.commit_hash)
    return _Remote(file.file, exactly, about.commit_hash, about.size, sha256)


def _check_room(folder: Path, remotes: list[_Remote]) -> None:
    needed = sum(remote.size for remote in remotes) + SPARE_BYTES
    needed -= sum(path.stat().st_size for path in folder.iterdir())
    free = free_bytes(folder)
    if needed > free:
        raise PerceptionError(
            f"{folder.parent} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed: "
            "make room, or set HF_HOME to a folder on another disk"
        )


def _fetch(folder: Path, remote: _Remote, progress: Progress) -> StoredFile:
    """The file, complete and checked, in the folder."""
    name = Path(remote.file).name
    complete = folder / name
    if not complete.is_file() or measure(complete)[1] != remote.sha256:
        part = folder / f"{remote.sha256}.part"
        _load(remote, part, progress)
        _, sha256 = measure(part)
        if sha256 != remote.sha256:
            part.unlink()
            raise PerceptionError(
                f"{name} came with SHA-256 {sha256}, and should have {remote.sha256}: it was damaged on the "
                "way, pull again"
            )
        part.replace(complete)
    return StoredFile(name, remote.size, remote.sha256)


def _load(remote: _Remote, part: Path, progress: Progress) -> None:
    """Append to the part what is missing of it, however often the line breaks, as long as something comes."""
    from httpx2 import TransportError

    part.touch()
    patience = TRIES
    while (size := part.stat().st_size) != remote.size:
        try:
            _append(remote, part, size, progress)
        except TransportError:  # noqa: PERF203, that is what the loop is for
            patience = TRIES if part.stat().st_size > size else patience - 1
            if not patience:
                raise
            time.sleep(PAUSE_S)


def _append(remote: _Remote, part: Path, size: int, progress: Progress) -> None:
    """One request for the bytes from `size` on, or for all of them where the part holds too many."""
    from huggingface_hub import get_session
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if size < remote.size:
        headers["Range"] = f"bytes={size}-"
    with (
        part.open("ab") as file,
        get_session().stream("GET", remote.url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT) as response,
    ):
        hf_raise_for_status(response)
        if response.status_code != _PARTIAL_CONTENT:
            file.truncate(0)
        for block in response.iter_raw():
            file.write(block)
            progress(remote.file, file.tell(), remote.size)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """What can happen on the way to a hub, in sentences."""
    try:
        from httpx2 import HTTPError
        from huggingface_hub import errors
    except ImportError as error:
        raise PerceptionError(
            "pulling models needs huggingface_hub: pip install 'lfm_perception[models]', "
            "or download the files yourself and use lfm-perception models add"
        ) from error
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise PerceptionError(
            "HF_HUB_OFFLINE is set, so nothing can be pulled: unset it, or use lfm-perception models add"
        ) from error
    except errors.GatedRepoError as error:
        raise PerceptionError(
            f"the hub gives {repo} only to those who asked for it: ask there, and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PerceptionError(f"the hub has no repository {repo}, or HF_TOKEN has no right to it") from error
    except errors.RevisionNotFoundError as error:
        raise PerceptionError(f"the hub's {repo} has no such revision: is it a commit or branch?") from error
    except errors.EntryNotFoundError as error:
        raise PerceptionError(f"the hub's {repo} has no such file: {_first_line(error)}") from error
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            raise
        raise PerceptionError(
            f"the hub cannot be reached or broke off ({_first_line(error)}): check the network and "
            "HTTPS_PROXY, and pull again; what has come is kept"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].strip()
