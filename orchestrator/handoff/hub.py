"""A package on the Hugging Face Hub, through the Hub's own client, which also finds the token.

The client is an optional dependency, imported only here.
"""

from __future__ import annotations

import glob
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import RunError, UserError
from orchestrator.handoff.front_matter import LIBRARY
from orchestrator.handoff.manifest import MANIFEST_FILE, SIGNATURE_FILE
from orchestrator.handoff.markdown import plain
from orchestrator.handoff.verify import COPIES, FOREIGN

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """What only a repository of the Hub can have."""

    private: bool = False
    """Created private; an existing public one is refused."""
    revision: str | None = None
    """Branch, made where it is missing; none: the main one."""
    message: str | None = None
    """Of the commit; none: `Hand over NAME`."""


def require_client(repository: str) -> None:
    """See that the client is installed, and takes the repository's name.

    Raises:
        UserError: it is not, or does not.
    """
    try:
        client = import_module("huggingface_hub.utils")
    except ImportError:
        raise UserError(
            "a push to the Hugging Face Hub needs its client, which is not installed: "
            "pip install 'video-compression-orchestrator[hub]' (or give a folder, like ./folder)"
        ) from None
    try:
        client.validate_repo_id(repository)
    except ValueError as error:
        raise UserError(f"TARGET is {repository!r}, which the Hub takes for no repository: {error}") from None


def upload(folder: Path, repository: str, options: HubOptions, *, name: str) -> str:
    """Make a repository what a folder is, in one commit; returns the commit's address.

    Files of an earlier package that this one lacks are deleted, as verification takes no others.

    Args:
        folder: what is uploaded, all of it.
        repository: `owner/name`; created where it is missing.
        options: of the repository.
        name: of the model, for the commit.

    Raises:
        UserError: the repository is public but asked to be private, or holds something else.
        RunError: the Hub refused, or can't be reached.
    """
    from huggingface_hub import HfApi

    with _errors_of_the_hub(repository):
        api = HfApi(library_name=LIBRARY)
        api.create_repo(repository, private=options.private or None, exist_ok=True)
        if options.private and not api.model_info(repository).private:
            raise UserError(
                f"{repository} is there already and is public; make it private on the Hub, or choose another"
            )
        if options.revision and not options.revision.startswith("refs/"):  # such are made by pull requests only
            api.create_branch(repository, branch=options.revision, exist_ok=True)
        new = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        stale = _earlier_files(api, repository, options.revision) - new
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=options.revision,
            commit_message=options.message or f"Hand over {name}",
            delete_patterns=[glob.escape(path) for path in sorted(stale)] or None,
        )
    return str(commit.commit_url)


def _earlier_files(api: HfApi, repository: str, revision: str | None) -> set[str]:
    """Files of the package that a repository holds; empty of a new one.

    Raises:
        UserError: it holds something else.
    """
    present = {path for path in api.list_repo_files(repository, revision=revision) if path not in FOREIGN}
    ours: set[str] = set()
    if MANIFEST_FILE in present:
        with tempfile.TemporaryDirectory() as temporary:
            manifest = api.hf_hub_download(repository, MANIFEST_FILE, revision=revision, local_dir=temporary)
            ours = names_of_package(Path(manifest))
    if others := sorted(present - ours - COPIES.keys()):  # the Hub's page makes a README.md with a new repository
        raise UserError(
            f"{repository} holds {others[0]!r}, which is of no package, and verification would fail there; choose "
            "another repository or --revision"
        )
    return present & ours


def names_of_package(manifest: Path) -> set[str]:
    """Paths of the files that a package pushed earlier may have; empty where there is none.

    Nothing else of its contract is asked for, so that an older, newer or damaged package can be replaced.
    """
    try:
        files = json.loads(manifest.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {*map(str, files), MANIFEST_FILE, SIGNATURE_FILE, *COPIES} if isinstance(files, dict) else set()


@contextmanager
def _errors_of_the_hub(repository: str) -> Iterator[None]:
    """Say in a sentence what the client says in many, without its context: a request has the token in it.

    Raises:
        RunError: in place of the client's errors.
    """
    errors = import_module("huggingface_hub.errors")  # its HTTPError is that of the HTTP library, which has changed
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        said = without_token(error.server_message or error.response.reason_phrase)
        advice = "; log in with `hf auth login`, with a token that may write there" if status in (401, 403) else ""
        raise RunError(f"{repository}: the Hub refused the push ({status}: {said}){advice}") from None
    except errors.HTTPError as error:
        said = without_token(str(error)) or type(error).__name__
        raise RunError(f"{repository}: the Hub can't be reached ({said}); push again later") from None
    except UserError:
        raise
    except ValueError as error:  # what the Hub finds wrong with the front matter of the card
        raise RunError(f"{repository}: the Hub refused the push ({without_token(plain(str(error)))})") from None


def without_token(text: str) -> str:
    """A text in which the token that is in use is not to be read, should a server have sent it back."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "…") if token else text
