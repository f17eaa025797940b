"""The Hugging Face hub: models by `owner/name`, taken from there and put there.

Needs the extra `hub` (huggingface_hub), whose cache, login and offline mode (`HF_HUB_OFFLINE=1`) are in force.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from spiking_vq.checkpoint.file import is_checkpoint
from spiking_vq.errors import InputError, require
from spiking_vq.pipelines.pretrained import MODEL

LIBRARY = "spiking_vq"
"""Name of this package on the hub."""

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_FILE = (".safetensors", ".ckpt")


def is_repository(word: str | Path, revision: str | None = None) -> bool:
    """Whether a word that is no existing path names a repository.

    A word such as `runs/mnits`, whose first part is a folder here, is a mistyped path unless a revision is given.

    Args:
        word: `owner/name`; a `Path`, or a word that ends like a file of a model, is none.
        revision: of the repository; None for the newest.
    """
    if not isinstance(word, str) or not _NAME.fullmatch(word) or word.endswith(_FILE) or Path(word).exists():
        return False
    return revision is not None or not Path(word).parent.is_dir()


def download(repository: str, revision: str | None = None) -> Path:
    """The local file of the model in a repository, downloaded unless the cache has it.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; None (default) for the newest commit of `main`.

    Raises:
        InputError: huggingface_hub is not installed, there is no such repository, revision or file, no access to it, no
            connection and no copy in the cache, or the file is no safetensors file.
    """
    action = f"there is no path {repository} here, and the repository {repository} cannot be loaded from the hub"
    with _hub_errors(action, repository, revision):
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(repository, MODEL, revision=revision, library_name=LIBRARY))
    if is_checkpoint(path):  # it would be unpickled
        raise InputError(f"{MODEL} of {repository} on the hub is no safetensors file: nothing else is read from there")
    return path


def upload(
    folder: Path, repository: str, private: bool | None, token: str | None, commit_message: str, create_pr: bool
) -> str:
    """Put the files of a folder into a repository, in one commit; the repository is created if it does not exist.

    Args:
        folder: whose files replace those of the same names.
        repository, private, token, commit_message, create_pr: see `Conventions.push_to_hub`.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        InputError: huggingface_hub is not installed, or the hub cannot be reached or refuses.
    """
    with _hub_errors(f"cannot push to {repository}", repository):
        from huggingface_hub import HfApi

        api = HfApi(token=token, library_name=LIBRARY)
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=commit_message, create_pr=create_pr
        )
    return commit.pr_url or commit.commit_url


def require_repository(repository: object) -> None:
    """Raise `InputError` unless the text is of the form `owner/name`."""
    holds = isinstance(repository, str) and _NAME.fullmatch(repository) is not None
    require(holds, "the repository", "of the form owner/name", repr(repository))


@contextmanager
def _hub_errors(action: str, repository: str, revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub, its HTTP library and the operating system raise into `InputError`."""
    if find_spec("huggingface_hub") is None:
        raise InputError(f"{action} without huggingface_hub: pip install 'spiking_vq[hub]'")
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    # the bases are OSError and the error of the HTTP library, which is another one in each version
    try:
        yield
    except (*HfHubHTTPError.__bases__, EntryNotFoundError, HFValidationError) as error:
        raise InputError(f"{action}: {_reason(error, repository, revision)}") from error


def _reason(error: Exception, repository: str, revision: str | None) -> str:
    """Why the hub's answer is no, and what to do about it."""
    from huggingface_hub import constants, errors

    cause = " ".join(str(error).split())[:300] or type(error).__name__
    page, login = f"{constants.ENDPOINT}/{repository}", "log in with `hf auth login`, or set HF_TOKEN"
    unreachable = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    reasons = {
        errors.GatedRepoError: f"it is gated. Accept its terms on {page}, and {login}",
        errors.RepositoryNotFoundError: f"there is none at {page}, or a private one. Check the name, or {login}",
        errors.RevisionNotFoundError: f"it has no revision {revision}. {page}/commits lists them",
        errors.LocalEntryNotFoundError: f"{unreachable}, and its {MODEL} is not in the cache, {constants.HF_HUB_CACHE}."
        " Load it once with a connection, or give the path of a copy",
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set. Unset it",
        errors.EntryNotFoundError: f"it has no {MODEL}, so it is no model that `pipe.push_to_hub` wrote ({page})",
        errors.HFValidationError: f"this is no name of a repository ({cause})",
        errors.LocalTokenNotFoundError: f"nobody is logged in. To do so, {login}",
    }
    known = (text for kind, text in reasons.items() if isinstance(error, kind))
    return next(known, f"{cause}. If it is private, {login}")
