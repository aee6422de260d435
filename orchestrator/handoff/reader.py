"""Load a handed-over model as an `nn.Module` with named feature maps and its own preprocessing.

This is what a detector in another program imports: no Ray, no data, no training, no video decoder. What an export or
a region needs beyond that (ONNX Runtime, torchvision) is imported when it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import UserError
from orchestrator.handoff.contract import require_agreement
from orchestrator.handoff.manifest import MANIFEST_FILE, Handoff, ImageInput, Stage
from orchestrator.handoff.preprocessing import Pictures, preprocess
from orchestrator.handoff.requirements import require_versions
from orchestrator.handoff.verify import check_files, parse_manifest, read_manifest
from trainers.backbones import Network, fast_order
from trainers.package import load_package, read_description

PACKAGE = "package"
"""Name of the weights that every package has, among its exports."""


class HandedModel(nn.Module):
    """A handed-over network: `forward` gives its logits or embeddings, `features` its feature maps.

    It can be trained further like any module; it is loaded in evaluation mode.

    Args:
        network: what computes.
        contract: what the package says of it.
        stages: the feature maps that are offered.
        format: `package`, or that of the exported file which computes.
        manifest_sha256: of the package's `handoff.json`, which names the package with all its files.
    """

    def __init__(
        self, network: Network, contract: Handoff, stages: tuple[Stage, ...], *, format: str, manifest_sha256: str
    ) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        self.stages = stages
        self.format = format
        self.manifest_sha256 = manifest_sha256

    @property
    def classes(self) -> tuple[str, ...]:
        """Label names in the order of the logits; of embeddings the identities that it was trained on."""
        return self.contract.classes

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.device

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits or embeddings of normalised inputs, in the layout that the contract names: [input, dimension]."""
        out: Tensor = self.network(inputs)
        return out

    def embed(self, images: Tensor) -> Tensor:
        """Vectors of length 1 to be compared, made as when accuracy was measured: with the images' mirrors or without.

        Args:
            images: as for `forward`.

        Returns:
            [image, dimension]; cosines are products of them.

        Raises:
            UserError: this model gives logits.
        """
        rule = self.contract.input
        if not isinstance(rule, ImageInput):
            raise UserError(f"{self.contract.name} gives logits, no vectors to be compared; call it")
        vectors = self(images) + self(images.flip(-1)) if rule.mirrored else self(images)
        return F.normalize(vectors.float(), dim=1)

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """The feature maps that were asked for when it was loaded, by name, in that order.

        The whole trunk is computed whichever they are.

        Args:
            inputs: as for `forward`.

        Returns:
            Per stage [clip, channel, frame, height, width], or [image, channel, height, width].

        Raises:
            UserError: this model has none.
        """
        if not self.stages:
            raise UserError(_why_no_stages(self.contract, self.format))
        maps = self.network.features(inputs)
        return {stage.name: maps[stage.name] for stage in self.stages}

    def stage(self, name: str) -> Stage:
        """Channels and strides of one of its feature maps.

        Raises:
            UserError: it has no such map.
        """
        return _chosen(self.stages, [name])[0]

    def preprocess(self, pictures: Pictures) -> Tensor:
        """The network's input, on its device, of uint8 frames or images: see `preprocessing.preprocess`.

        Raises:
            UserError: they are not what the contract asks for.
        """
        return preprocess(pictures, self.contract.input).to(self.device)


def load(
    folder: str | Path,
    *,
    stages: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    format: str | None = None,
    check: bool = True,
) -> HandedModel:
    """The model of a package, ready to run.

    Args:
        folder: the package.
        stages: names of the feature maps that `features` gives, in this order; none: all that there are.
        device: where it computes; integers and exported files compute on the CPU.
        format: of an exported file of the package (`onnx`, …), in place of its weights.
        check: compare the hash of every file with the contract first.

    Raises:
        UserError: no package, a damaged one or of a newer version, no such stage or export, or it can't run there, or
            not with what is installed.
    """
    folder, format = Path(folder), format or PACKAGE
    content = read_manifest(folder)
    contract = parse_manifest(content, folder / MANIFEST_FILE)
    require_versions(str(folder), contract.requires)
    if check:
        check_files(folder, contract)
    require_agreement(folder, read_description(folder), contract)
    offered = contract.stages if format == PACKAGE else ()
    if stages and not offered:
        raise UserError(_why_no_stages(contract, format))
    chosen = offered if stages is None else _chosen(offered, stages)
    network = load_package(folder)[0] if format == PACKAGE else _read_export(folder, contract, format)
    fast_order(_placed(network, device))  # as when it was measured
    digest = hashlib.sha256(content).hexdigest()
    return HandedModel(network, contract, chosen, format=format, manifest_sha256=digest).eval()


def _read_export(folder: Path, contract: Handoff, format: str) -> Network:
    """The network of an exported file.

    Raises:
        UserError: there is no such file, or it can't be run here.
    """
    from trainers.artefacts import load_artefact

    folders = {export.format: export.folder for export in contract.exports}
    if format not in folders:
        raise UserError(
            f"format is {format!r}, but {folder} has {', '.join((PACKAGE, *folders))}; "
            "`orchestrate export` makes others, for the next hand-off"
        )
    return load_artefact(folder / folders[format])[0]


def _placed(network: Network, device: str | torch.device) -> Network:
    """A network on a device.

    Raises:
        UserError: it can't compute there.
    """
    try:
        wanted = torch.device(device)
        if wanted.type != "cpu" and next(network.parameters(), None) is None:
            raise UserError(f"device is {wanted}, but integers and exported files compute on the CPU; leave it out")
        return network.to(wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device is {str(device)!r}, but PyTorch can't use it here: {reason}; give cpu") from error


def _chosen(offered: Sequence[Stage], names: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of these names, in their order.

    Raises:
        UserError: one is not offered.
    """
    by_name = {stage.name: stage for stage in offered}
    if unknown := [name for name in names if name not in by_name]:
        raise UserError(f"stage {unknown[0]!r} is not one of this model: it has {', '.join(by_name)}")
    return tuple(by_name[name] for name in names)


def _why_no_stages(contract: Handoff, format: str) -> str:
    """Why no feature maps can be given, and which package gives them."""
    if contract.stages and format != PACKAGE:
        return f"{contract.name} as {format} gives outputs only, no feature maps; load the package without a format"
    if contract.precision == "int8":
        floating = [step for step in contract.lineage if step.relation == "start" and step.kind != "quantised"]
        origin = f" of {floating[0].name} ({floating[0].digest}), from which it was quantised" if floating else ""
        return (
            f"{contract.name} computes in integers and gives no feature maps; take the floating-point package{origin}"
        )
    return f"{contract.name} gives no feature maps here: none was asked for when it was loaded, or it has none"
