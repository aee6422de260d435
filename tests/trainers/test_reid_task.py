import copy
import dataclasses
import logging
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from compression.distillation import similarity_kl
from configs.errors import UserError
from configs.schema import DataSettings, DistillationSettings, ReidSettings, TrainSettings
from trainers.backbones import BACKBONES, build
from trainers.backbones.reid import ReidNetwork
from trainers.data.identities import IdentityManifest, build_identity_manifest
from trainers.data.people import PeopleSettings, make_synthetic_people
from trainers.distributed import World
from trainers.package import Description, load_package, save_package
from trainers.reid.adversary import camera_loss, reversal_weight, train_against
from trainers.reid.losses import batch_hard_triplet, circle_loss
from trainers.site import Site
from trainers.tasks import TASKS
from trainers.tasks.base import Workplace
from trainers.tasks.reid import ReidTask, embed, score_network, score_reid
from trainers.trial import Trial

PEOPLE = PeopleSettings(
    train_identities=4, test_identities=4, train_images=2, test_images=2, cameras=2, distractors=2, junk=1, height=40
)
SPEC = BACKBONES["reid"].presets["tiny"].replace(classes=4, side=16, width=1 / 16, blocks=(1, 1, 1, 1))
REID = ReidSettings(images=2, pad=2, head_width=8, head_dropout=0.0, ball_occlusion=0.0, person_occlusion=0.0)
TRAIN = TrainSettings(epochs=2, batch=8, lr=0.05, warmup_epochs=0, precision="fp32")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> IdentityManifest:
    folder = make_synthetic_people(tmp_path_factory.mktemp("people") / "set", PEOPLE)
    return build_identity_manifest(DataSettings(source="synthetic-people", path=folder))


@pytest.fixture
def site(tmp_path: Path, manifest: IdentityManifest) -> Site:
    site = Site(store=tmp_path)
    manifest.save(site.manifest_file(manifest.fingerprint))
    return site


def open_task(
    site: Site, manifest: IdentityManifest, reid: ReidSettings = REID, *, world: World | None = None, **changes: Any
) -> tuple[ReidTask, ReidNetwork]:
    """A trial's task and its student, in training mode."""
    manifest.save(site.manifest_file(manifest.fingerprint))
    fields = {"name": "trial", "network": SPEC, "train": TRAIN, "seed": 0, **changes}
    trial = Trial(data=manifest.fingerprint, reid=reid, **fields)
    torch.manual_seed(0)
    student = build(trial.network)
    assert isinstance(student, ReidNetwork)
    task = ReidTask(Workplace(trial=trial, site=site, world=world or World(), device=torch.device("cpu")), student)
    student.train()
    task.learnt.train()
    return task, student


def save_teacher(site: Site, **changes: Any) -> str:
    torch.manual_seed(1)
    spec = SPEC.replace(**changes)
    save_package(site.trial_folder("teacher"), build(spec), Description(spec=spec, reid=REID, classes=("a",) * 4))
    return "teacher"


def sgd_step(task: ReidTask, student: ReidNetwork, progress: float = 0.5) -> dict[str, float]:
    """One step on the first batch; its loss terms before it."""
    learnt = [*student.parameters(), *task.learnt.parameters()]
    optimizer = torch.optim.SGD(learnt, lr=0.05)
    loss = task.loss(student, next(iter(task.batches(0))), progress)
    torch.stack(list(loss.terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return {name: term.item() for name, term in loss.terms.items()}


def test_terms_are_those_that_have_a_weight(site: Site, manifest: IdentityManifest) -> None:
    for changes, names in (
        ({}, {"identity", "triplet"}),
        ({"triplet_weight": 0.0, "circle_weight": 1.0}, {"identity", "circle"}),
        ({"identity_weight": 0.0}, {"triplet"}),
        ({"adversary": "reversal"}, {"identity", "triplet", "camera"}),
    ):
        task, student = open_task(site, manifest, REID.model_copy(update=changes))
        assert set(sgd_step(task, student)) == names


def test_weights_multiply_their_terms(site: Site, manifest: IdentityManifest) -> None:
    circles = REID.model_copy(update={"circle_weight": 1.0})
    once = sgd_step(*open_task(site, manifest, circles))
    weights = {"identity_weight": 2.0, "triplet_weight": 3.0, "circle_weight": 5.0}
    more = sgd_step(*open_task(site, manifest, circles.model_copy(update=weights)))
    assert more == pytest.approx({name: weights[f"{name}_weight"] * term for name, term in once.items()})


def test_an_untrained_head_finds_all_identities_equally_likely(site: Site, manifest: IdentityManifest) -> None:
    """ln 4, but for the classifier's tiny weights."""
    task, student = open_task(site, manifest)
    assert sgd_step(task, student)["identity"] == pytest.approx(math.log(4), abs=0.02)


def test_training_fits_the_training_identities(site: Site, manifest: IdentityManifest) -> None:
    task, student = open_task(site, manifest, network=SPEC.replace(width=1 / 8))
    optimizer = torch.optim.SGD([*student.parameters(), *task.learnt.parameters()], lr=0.05, momentum=0.9)
    first = last = right = 0.0
    for epoch in range(25):
        for batch in task.batches(epoch):
            loss = task.loss(student, batch, epoch / 25)
            total = torch.stack(list(loss.terms.values())).sum()
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            first, last = first or total.item(), total.item()
            right = loss.correct.item() / loss.items
    assert last < 0.6 * first
    assert right >= 0.75


def test_steps_and_what_is_learnt(site: Site, manifest: IdentityManifest) -> None:
    task, student = open_task(site, manifest, REID.model_copy(update={"adversary": "alternating"}))
    assert task.steps == 16 // 8 == len(list(task.batches(0)))
    assert set(task.learnt) == {"identity", "camera"}
    assert task.heads == ("identity",)
    outputs = task.joined(student)(torch.randn(2, *SPEC.input_shape))
    assert [tuple(output.shape) for output in outputs] == [(2, 4), (2, 2)]


def gradients(task: ReidTask, student: ReidNetwork, progress: float, batch: int = 0) -> list[torch.Tensor]:
    """Of the camera term alone, to the network."""
    batches = list(task.batches(0))
    student.zero_grad()
    loss = task.loss(student, batches[batch], progress).terms["camera"]
    return list(torch.autograd.grad(loss, list(student.parameters()), allow_unused=True))


def test_the_adversary_grows_with_progress_and_starts_at_nothing(site: Site, manifest: IdentityManifest) -> None:
    task, student = open_task(site, manifest, REID.model_copy(update={"adversary": "reversal"}))
    start, end = (sum(g.abs().sum().item() for g in gradients(task, student, p)) for p in (0.0, 0.9))
    assert start == 0
    assert end > 0


def test_the_reversed_gradient_makes_cameras_harder_to_tell(site: Site, manifest: IdentityManifest) -> None:
    """A step of the network against its camera gradient raises the classifier's cross-entropy."""
    task, student = open_task(site, manifest, REID.model_copy(update={"adversary": "reversal"}))
    batch = next(iter(task.batches(0)))
    before = task.loss(student, batch, 0.9).terms["camera"]
    steps = gradients(task, student, 0.9)
    with torch.no_grad():
        for parameter, step in zip(student.parameters(), steps, strict=True):
            parameter.sub_(step, alpha=0.5)
    assert task.loss(student, batch, 0.9).terms["camera"] > before


def test_the_alternating_adversary_moves_the_classifier_itself(site: Site, manifest: IdentityManifest) -> None:
    task, student = open_task(site, manifest, REID.model_copy(update={"adversary": "alternating"}))
    before = [parameter.clone() for parameter in task.learnt["camera"].parameters()]
    loss = task.loss(student, next(iter(task.batches(0))), 0.5)
    torch.stack(list(loss.terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    after = list(task.learnt["camera"].parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)  # so the loop's optimiser leaves it alone
    assert any(bool((parameter.grad != 0).any()) for parameter in student.parameters() if parameter.grad is not None)


def with_cameras(manifest: IdentityManifest, camera_of_identity: dict[int, int]) -> IdentityManifest:
    train = tuple(
        dataclasses.replace(crop, camera=camera_of_identity.get(crop.identity, crop.camera)) for crop in manifest.train
    )
    return dataclasses.replace(manifest, train=train)


def test_one_camera_has_no_adversary(site: Site, manifest: IdentityManifest, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        task, student = open_task(
            site, with_cameras(manifest, dict.fromkeys(range(4), 1)), REID.model_copy(update={"adversary": "reversal"})
        )
    assert "one camera only" in caplog.text
    assert set(task.learnt) == {"identity"}
    assert "camera" not in sgd_step(task, student)


def test_cameras_that_follow_identities_are_warned_of(
    site: Site, manifest: IdentityManifest, caplog: pytest.LogCaptureFixture
) -> None:
    reversal = REID.model_copy(update={"adversary": "reversal"})
    with caplog.at_level(logging.WARNING):
        open_task(site, manifest, reversal)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        open_task(site, with_cameras(manifest, {0: 1, 1: 1, 2: 2, 3: 2}), reversal)
    assert "unlearning cameras unlearns identities" in caplog.text


def test_a_teacher_of_the_same_weights_and_mode_asks_for_nothing(site: Site, manifest: IdentityManifest) -> None:
    distillation = DistillationSettings(weight=2.0, temperature=0.5, teacher_mode="train")
    task, student = open_task(site, manifest, teacher=save_teacher(site), distillation=distillation)
    assert sgd_step(task, student)["similarity"] > 1e-4
    task, student = open_task(site, manifest, teacher="teacher", distillation=distillation)
    assert task.teacher is not None
    student.load_state_dict(task.teacher.state_dict())
    assert sgd_step(task, student)["similarity"] == pytest.approx(0, abs=1e-5)


def test_the_teacher_learns_nothing(site: Site, manifest: IdentityManifest) -> None:
    task, student = open_task(site, manifest, teacher=save_teacher(site), distillation=DistillationSettings())
    assert task.teacher is not None
    before = {name: tensor.clone() for name, tensor in task.teacher.state_dict().items()}
    sgd_step(task, student)
    assert all(torch.equal(before[name], tensor) for name, tensor in task.teacher.state_dict().items())
    assert set(task.learnt) == {"identity"}


def test_a_reduced_student_learns_from_a_larger_teacher(site: Site, manifest: IdentityManifest) -> None:
    """Teacher and student see the same pictures at sizes of their own, and have vectors of different lengths."""
    small = SPEC.replace(factors=dataclasses.replace(SPEC.factors, s=2.0, c=2.0))
    task, student = open_task(
        site, manifest, network=small, teacher=save_teacher(site), distillation=DistillationSettings(temperature=0.5)
    )
    batch = next(iter(task.batches(0)))
    assert [tuple(view.shape) for view in batch.views] == [(8, 3, 16, 8), (8, 3, 32, 16)]
    assert math.isfinite(sgd_step(task, student)["similarity"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": TRAIN.model_copy(update={"micro_batch": 4})}, r"train\.micro_batch is 4, but triplets"),
        ({"train": TRAIN.model_copy(update={"batch": 7})}, r"train\.batch is 7, but must be a multiple of"),
        ({"train": TRAIN.model_copy(update={"batch": 10})}, r"takes 5 identities"),
        ({"world": World(rank=0, size=2)}, "one process per hypothesis"),
        ({"distillation": DistillationSettings(features="l2")}, r"distillation\.features is l2"),
        ({"distillation": DistillationSettings(source_alpha=500.0)}, r"distillation\.source_alpha is 500"),
    ],
)
def test_settings_that_do_not_fit_are_errors(
    site: Site, manifest: IdentityManifest, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_task(site, manifest, teacher=save_teacher(site), **changes)


def test_settings_are_checked_before_any_trial_by_the_names_of_their_groups(manifest: IdentityManifest) -> None:
    check, nothing = TASKS["reid"].check, DistillationSettings(weight=0.0)
    small, odd = (TRAIN.model_copy(update=changes) for changes in ({"micro_batch": 4}, {"batch": 7}))
    check({"train": TRAIN, "teacher.train": TRAIN}, DistillationSettings(), REID, manifest)
    check({}, nothing, REID, manifest)
    with pytest.raises(UserError, match=r"^teacher\.train\.micro_batch is 4, .* lower teacher\.train\.batch"):
        check({"train": TRAIN, "teacher.train": small}, nothing, REID, manifest)
    with pytest.raises(UserError, match=r"^train\.batch is 7"):
        check({"train": odd, "teacher.train": TRAIN}, nothing, REID, manifest)
    with pytest.raises(UserError, match=r"^distillation\.features is l2"):
        check({"train": TRAIN}, nothing.model_copy(update={"features": "l2"}), REID, manifest)


def test_classes_are_learnt_by_any_recipe(manifest: IdentityManifest) -> None:
    recipe = TRAIN.model_copy(update={"micro_batch": 4, "batch": 7})
    TASKS["classification"].check({"train": recipe}, DistillationSettings(features="l2"), REID, manifest)


def test_occlusion_by_persons_without_masks_is_warned_of(
    site: Site, manifest: IdentityManifest, caplog: pytest.LogCaptureFixture
) -> None:
    bare = dataclasses.replace(manifest, train=tuple(dataclasses.replace(crop, mask=None) for crop in manifest.train))
    occluded = REID.model_copy(update={"person_occlusion": 0.3})
    with caplog.at_level(logging.WARNING):
        open_task(site, manifest, occluded)
        open_task(site, bare, REID)
        open_task(site, bare, occluded, train=None)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        open_task(site, bare, occluded)
    [record] = caplog.records
    assert "reid.person_occlusion is 0.3" in record.getMessage()
    assert "has no masks of persons" in record.getMessage()


@pytest.mark.parametrize("adversary", ["reversal", "alternating"])
def test_with_bf16_the_networks_alone_are_in_half_precision(
    site: Site, manifest: IdentityManifest, adversary: Literal["reversal", "alternating"]
) -> None:
    """Every loss is that of the half-precision vectors and logits, computed in float32."""
    reid = REID.model_copy(update={"adversary": adversary, "circle_weight": 1.0})
    distillation = DistillationSettings(weight=1.0, temperature=0.5)
    task, student = open_task(
        site,
        manifest,
        reid,
        train=TRAIN.model_copy(update={"precision": "bf16"}),
        teacher=save_teacher(site),
        distillation=distillation,
    )
    batch = next(iter(task.batches(0)))
    outputs: dict[str, torch.Tensor] = {}
    assert task.teacher is not None
    for name, module in (("student", student), ("identity", task.identity), ("teacher", task.teacher)):
        module.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output))
    camera = copy.deepcopy(task.camera)
    assert camera is not None
    terms = task.loss(student, batch, 0.5).terms
    assert {output.dtype for output in outputs.values()} == {torch.bfloat16}
    assert {term.dtype for term in terms.values()} == {torch.float32}
    vectors, logits, wanted = (outputs[name].float() for name in ("student", "identity", "teacher"))
    identities, weights = batch.identities, task.camera_weights
    against = {
        "reversal": lambda: camera_loss(camera(vectors), batch.cameras, weights=weights),
        "alternating": lambda: (
            reversal_weight(0.5, reid.adversary_weight)
            * train_against(camera, vectors, batch.cameras, steps=1, lr=TRAIN.lr, weights=weights)
        ),
    }
    circle = circle_loss(vectors, identities, margin=reid.circle_margin, gamma=reid.circle_gamma)
    expected = {
        "identity": torch.nn.functional.cross_entropy(logits, identities),
        "triplet": batch_hard_triplet(vectors, identities, margin=reid.margin),
        "circle": circle / len(identities),
        "camera": against[adversary](),
        "similarity": similarity_kl(vectors, wanted, temperature=0.5),
    }
    assert set(terms) == set(expected)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-6, atol=1e-7, msg=name)


def test_a_trial_without_a_recipe_is_only_evaluated(site: Site, manifest: IdentityManifest) -> None:
    task, student = open_task(site, manifest, train=None)
    assert task.steps == 0
    assert task.evaluate(student, quick=False).finite


def test_vectors_have_length_one_and_mirrors_are_added(manifest: IdentityManifest) -> None:
    torch.manual_seed(0)
    network = build(SPEC)
    plain, both = (embed(network, manifest.root, manifest.query, mirrors=mirrors) for mirrors in (False, True))
    for embedded in (plain, both):
        torch.testing.assert_close(embedded.vectors.norm(dim=1), torch.ones(len(manifest.query)))
    assert not torch.allclose(plain.vectors, both.vectors)
    assert both.identities.tolist() == [crop.identity for crop in manifest.query]
    assert both.cameras.tolist() == [crop.camera for crop in manifest.query]
    assert not network.training


class Oracle(ReidNetwork):
    """Knows who is on each image of a list, in the order in which it is shown them."""

    answers: list[torch.Tensor]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = [self.answers.pop(0) for _ in range(len(images))]
        return torch.stack(rows)


def test_an_oracle_scores_one(manifest: IdentityManifest) -> None:
    """And whoever takes everybody for the next person scores far less."""
    for shift, perfect in ((0, True), (1, False)):
        oracle = Oracle(SPEC)
        codes = torch.eye(16)
        oracle.answers = [codes[crop.identity] for crop in manifest.query]
        oracle.answers += [codes[(crop.identity + shift) % 16] for crop in manifest.gallery]
        scores = score_network(oracle, manifest, REID, quick=True)
        assert (scores.map == scores.top1 == 1.0) is perfect
        assert scores.examples == len(manifest.query)


def test_a_quick_look_does_without_mirrors(site: Site, manifest: IdentityManifest) -> None:
    task, student = open_task(site, manifest)
    assert task.evaluate(student, quick=True) == score_network(
        student, manifest, REID.model_copy(update={"flip": False})
    )
    assert task.evaluate(student, quick=False) == score_network(student, manifest, REID)


def test_infinite_vectors_are_told(manifest: IdentityManifest) -> None:
    network = build(SPEC)
    torch.nn.init.constant_(network.get_submodule("bn1").get_parameter("bias"), math.inf)
    assert not score_network(network, manifest, REID).finite


def test_a_package_is_scored_as_its_trial_was(site: Site, manifest: IdentityManifest) -> None:
    standard = REID.model_copy(update={"average_precision": "standard"})
    task, student = open_task(site, manifest, standard)
    expected = task.evaluate(student, quick=False)
    save_package(site.store / "model", student, task.description(student))
    network, description = load_package(site.store / "model")
    assert (description.reid, description.classes) == (standard, manifest.classes)
    assert score_reid(network, description, manifest, 0.0, torch.device("cpu")) == expected


def test_unreadable_images_are_tolerated_up_to_the_share(tmp_path: Path) -> None:
    folder = make_synthetic_people(tmp_path / "set", PEOPLE)
    manifest = build_identity_manifest(DataSettings(source="synthetic-people", path=folder))
    (folder / manifest.gallery[-1].path).write_text("no image")
    network = build(SPEC)
    description = Description(spec=SPEC, reid=REID, classes=manifest.classes)
    score_reid(network, description, manifest, 0.1, torch.device("cpu"))
    with pytest.raises(UserError, match=r"data\.max_quarantined"):
        score_reid(network, description, manifest, 0.0, torch.device("cpu"))
