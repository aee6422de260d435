"""A tiny data set and a store for trials."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.trainers import tiny
from trainers.data.manifest import Manifest
from trainers.site import Site

torch.set_num_threads(1)  # tiny networks lose more to handing work around than they gain


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a few videos; nobody changes it."""
    folder = tmp_path_factory.mktemp("videos")
    tiny.write_videos(folder)
    return folder


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A store that tests share, for trials that none of them damages."""
    return Site(store=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def manifest(videos: Path, shared_site: Site) -> Manifest:
    """The videos, listed in the shared store."""
    return tiny.make_store(shared_site.store, videos)


@pytest.fixture(scope="session")
def teacher(manifest: Manifest, shared_site: Site) -> str:
    """Digest of a trained network in the shared store."""
    return tiny.finish(tiny.make_trial(manifest, name="teacher"), shared_site).trial


@pytest.fixture
def site(tmp_path: Path, shared_site: Site, teacher: str, manifest: Manifest) -> Site:
    """A store of the test's own, in which the teacher is known."""
    site = Site(store=tmp_path / "runs")
    manifest.save(site.manifest_file(manifest.fingerprint))
    shutil.copytree(shared_site.trial_folder(teacher), site.trial_folder(teacher))
    return site
