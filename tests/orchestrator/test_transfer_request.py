"""Which networks are meant by what people call them, and which can't be fine-tuned."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from compression.spec import Quantisation
from configs.errors import UserError
from configs.loader import load_settings
from configs.schema import QuantiseRecipe, ReidSettings
from orchestrator.registry.registry import Registry
from orchestrator.store import Store
from orchestrator.transfer.request import choose, defaults_of
from tests.orchestrator import sample_registry
from tests.orchestrator.sample_registry import PAS1, PAS2, RUN, TEACHER, make_store, stored
from tests.orchestrator.sample_transfer import copy_with_network
from tests.trainers.tiny import REID_SPEC


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Networks to start from; nobody changes it."""
    return make_store(tmp_path_factory.mktemp("store") / "runs")


def test_a_copy_of_a_model_of_the_store_is_that_model(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root / RUN / "models" / "PAS-1", tmp_path / "copy")
    (chosen,), _ = choose(store, [str(tmp_path / "copy")])
    assert (chosen.digest, chosen.outside) == (PAS1.digest, None)


def test_whatever_people_call_it(store: Store) -> None:
    ways = [PAS1.digest, PAS1.digest[:8], f"{RUN}/PAS-1", PAS1.name, str(store.root / RUN / "models" / "PAS-1")]
    for way in ways:
        (chosen,), _ = choose(store, [way])
        assert (chosen.name, chosen.digest, chosen.run) == ("PAS-1", PAS1.digest, RUN)
    for way in (RUN, str(store.root / RUN)):
        chosen_all, left_out = choose(store, [way])
        assert [(one.name, one.digest) for one in chosen_all] == [
            ("teacher", TEACHER.digest), ("PAS-1", PAS1.digest), ("PAS-2", PAS2.digest),
        ]  # fmt: skip
        assert left_out == []


def test_each_network_once_and_names_told_apart(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "PAS-1"
    copy_with_network(store.trial_folder(PAS2.digest), folder, PAS2.network.replace(dropout=0.25))
    chosen, _ = choose(store, [f"{RUN}/PAS-1", RUN, str(folder)])
    assert [one.name for one in chosen[:3]] == ["PAS-1", "teacher", "PAS-2"]
    assert chosen[3].name == f"{chosen[3].digest}-PAS-1"


def test_the_recipe_is_that_of_the_network_s_own_run(store: Store) -> None:
    """And clips are cut as its own were, whatever the preset says."""
    chosen, _ = choose(store, [f"{RUN}/PAS-1"])
    defaults = defaults_of(store, chosen)
    settings = load_settings(None, defaults=defaults)
    assert settings.clips == PAS1.clips
    recorded = store.run(RUN).require_state()["config"]["train"]
    assert {key: getattr(settings.train, key) for key in recorded} == recorded


def test_networks_that_can_not_be_fine_tuned(store: Store, tmp_path: Path) -> None:
    described = json.loads((store.trial_folder(PAS1.digest) / "network.json").read_text())
    for name, change, message in (
        ("int8", {"quantisation": {"engine": "onednn", "float_layers": []}}, "computes in integers"),
        ("nothing", {"backbone": "unknown"}, "backbone is 'unknown'"),
    ):
        folder = tmp_path / name
        shutil.copytree(store.trial_folder(PAS1.digest), folder)
        (folder / "network.json").write_text(json.dumps({**described, "spec": {**described["spec"], **change}}))
        with pytest.raises(UserError, match=message):
            choose(store, [str(folder)])
    with pytest.raises(UserError, match=r"there is no model 'tiny-pas/PAS-9'.*tiny-pas/PAS-1"):
        choose(store, [f"{RUN}/PAS-9"])


INTEGERS = Quantisation(engine="onednn")
INT8 = replace(
    PAS1,
    name="r2plus1d-ptq",
    network=PAS1.network.replace(quantisation=INTEGERS),
    start=PAS1.digest,
    quantise=QuantiseRecipe(),
)
REID = sample_registry.trial("reid-teacher", network=REID_SPEC, clips=None, reid=ReidSettings())


def test_what_is_refused_names_what_to_take_instead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One asked for by itself is an error; of a run, the others are taken."""
    int8, reid = stored(trial=INT8, aliases=("chain/3-int8",)), stored(trial=REID, aliases=("people/teacher",))
    models = (stored(), int8, reid)
    monkeypatch.setattr(Registry, "open", lambda store: Registry(store=store, models=models, damaged=()))
    with pytest.raises(UserError) as error:
        choose(store, ["chain/3-int8"])
    assert str(error.value) == (
        "chain/3-int8 computes in integers, which are not trained further; give tiny-pas/PAS-1 "
        f"({PAS1.digest}), that it was made from"
    )
    with pytest.raises(UserError, match="people/teacher is a reid, which embeds images"):
        choose(store, ["people/teacher"])
    monkeypatch.setattr(Registry, "of_run", lambda registry, run: models[:2])
    chosen, left_out = choose(store, [RUN])
    assert [one.digest for one in chosen] == [PAS1.digest]
    assert left_out == [str(error.value)]
    monkeypatch.setattr(Registry, "of_run", lambda registry, run: models[1:])
    with pytest.raises(UserError, match=r"nothing of run tiny-pas can be fine-tuned: chain/3-int8 computes .*; people"):
        choose(store, [RUN])
