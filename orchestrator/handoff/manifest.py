"""The contract of a handed-over model: what `handoff.json` says.

Whoever consumes a model needs nothing else: how to make its input from a video or a picture, which feature maps it
gives with which strides, what it was measured to reach and to cost, where it comes from, under which licence, and the
hash of every file. Its JSON Schema is `handoff.schema.json` beside this file.

This module is imported by the reader: no Ray, no data, no training in here.

Units: frames are frames at `input.fps`, sides are pixels, accuracies are fractions, costs are GMACs per clip or image.
Paths are relative to the package, with forward slashes; no part of one starts with a dot, so none leads out of it.
"""

from __future__ import annotations

import itertools
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, PositiveInt, model_validator

SCHEMA_VERSION: Literal[1] = 1
"""Version of the contract that this code writes, and the newest that it reads."""
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
MANIFEST_FILE = "handoff.json"
SIGNATURE_FILE = "handoff.sig"
"""Ed25519 signature over the bytes of `handoff.json`, which has the hash of every other file."""
WEIGHTS_FILE, NETWORK_FILE = "model.safetensors", "network.json"
"""What a network is built from; no package is without them."""
REQUIRED_FILES = (WEIGHTS_FILE, NETWORK_FILE)

Triple = tuple[float, float, float]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
StageName = Annotated[str, Field(pattern=f"^{NAME}$")]
"""Such that it can be part of a file's name."""
FilePath = Annotated[str, Field(pattern=f"^{NAME}(/{NAME})*$")]


class Part(BaseModel):
    """Base of all parts: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
    )


class Stage(Part):
    """A named feature map, measured by a forward pass."""

    name: StageName
    """Key in the result of `features`."""
    channels: PositiveInt
    """Number of channels."""
    temporal_stride: PositiveInt
    """Input frames per frame of the map; 1 of an image."""
    spatial_stride: PositiveInt
    """Input pixels per cell of the map, in both directions."""
    shape: tuple[PositiveInt, ...]
    """Of the map of one input as the contract asks for it: channel, frame, height, width; channel, height, width of an
    image."""


class Resize(Part):
    """How a frame is resized before it is cropped; exactly one of the rules."""

    short_side: PositiveInt | None = None
    """Its shorter side becomes so many pixels, the other in proportion, rounded to the nearest integer."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """It becomes so many pixels high and wide."""
    interpolation: Literal["bilinear", "bicubic"]
    """With antialiasing, on 8-bit values."""

    @model_validator(mode="after")
    def _one_rule(self) -> Resize:
        if (self.short_side is None) == (self.size is None):
            raise ValueError("needs either short_side or size")
        return self


class ClipInput(Part):
    """How to make a clip from a video."""

    kind: Literal["clip"] = "clip"
    layout: Literal["clip channel frame height width"] = "clip channel frame height width"
    """Order of the tensor's axes; channels are red, green, blue."""
    fps: Annotated[float, Field(gt=0)]
    """Frames per second of the videos that accuracy was measured on: their median; where no file says, the nominal
    rate of the backbone. Training and evaluation took a video's frames as they came, whatever its rate, so a video of
    another rate is resampled to this one."""
    span: PositiveInt
    """Consecutive frames, at that rate, that a clip covers."""
    evaluation_span: PositiveInt | None = None
    """Consecutive frames that evaluation set aside per clip, of which it used the first `span`; more than `span` where
    the clip was shortened. None: as many."""
    frame_indices: tuple[NonNegativeInt, ...]
    """Which of them the network is given, ascending."""
    frames: PositiveInt
    """Their number."""
    resize: Resize
    """Then each is resized."""
    side: PositiveInt
    """Then the square of this side in the middle is cut out."""
    mean: Triple
    """Divide by 255, subtract this per colour."""
    std: Triple
    """Then divide by this."""
    clips_per_video: PositiveInt
    """Clips, uniform in time, whose softmax was averaged to measure accuracy: the first starts with the video, the last
    one's `evaluation_span` ends with it; a single one is in the middle."""

    @model_validator(mode="after")
    def _indices_fit(self) -> ClipInput:
        indices = self.frame_indices
        if len(indices) != self.frames:
            raise ValueError(f"has {len(indices)} frame_indices, but frames is {self.frames}")
        if any(later < earlier for earlier, later in itertools.pairwise(indices)) or indices[-1] >= self.span:
            raise ValueError(f"frame_indices must ascend and be less than span, which is {self.span}")
        if self.evaluation_span is not None and self.evaluation_span < self.span:
            raise ValueError(f"evaluation_span is {self.evaluation_span}, but span is {self.span}")
        return self


class ImageInput(Part):
    """How to make an input from a picture of one person or thing."""

    kind: Literal["image"] = "image"
    layout: Literal["image channel height width"] = "image channel height width"
    """Order of the tensor's axes; channels are red, green, blue."""
    resize: Resize
    """The picture is resized."""
    height: PositiveInt
    """To this height."""
    width: PositiveInt
    """And this width."""
    mean: Triple
    """Divide by 255, subtract this per colour."""
    std: Triple
    """Then divide by this."""
    mirrored: bool = False
    """Whether accuracy was measured with the vector of the image mirrored left to right added to its own."""


class Output(Part):
    """What a forward pass gives."""

    kind: Literal["logits", "embedding"]
    """Unnormalised class scores; or a vector, to be brought to length 1 before it is compared."""
    dimension: PositiveInt
    """Classes, or length of the vector."""
    distance: Literal["cosine"] | None = None
    """How embeddings are compared."""


class Accuracy(Part):
    """What it was measured to reach, and on what."""

    metric: Literal["top1", "map"]
    """What models of its kind are compared by."""
    top1: Fraction | None
    """Top-1 accuracy; of embeddings CMC at rank 1."""
    top5: Fraction | None
    """Likewise."""
    map: Fraction | None
    """Mean average precision of embeddings."""
    drop_points: float | None
    """Points of the metric below the base network of its search on the same data."""
    how: str
    """How it was measured, in a sentence."""
    data_source: str | None
    """Key of the data's source."""
    fingerprint: str
    """SHA-256 of the data that was used."""
    examples: PositiveInt | None
    """Validation videos or queries; none where the store has lost the list."""


class Latency(Part):
    """A time per input, with what it was measured under."""

    ms: Annotated[float, Field(gt=0)]
    conditions: dict[str, JsonValue]
    """Machine, instruction set, threads, batch, runs, torch."""


class Energy(Part):
    """An energy per input, with what it was measured under."""

    mj: Annotated[float, Field(gt=0)]
    conditions: dict[str, JsonValue]
    """Machine, counter, threads, batch, torch."""


class Cost(Part):
    """What it costs, and how that was found."""

    gmacs: Annotated[float, Field(gt=0)]
    """Multiply-adds of convolutions and linear layers, counted once, per clip or image."""
    params: PositiveInt
    """Parameters."""
    size_mb: Annotated[float, Field(gt=0)]
    """Weights file."""
    how: str
    """How multiply-adds were counted, in a sentence."""
    latency: Latency | None
    """None: not measured."""
    energy: Energy | None
    """None: not measured."""


class Ancestor(Part):
    """A step of the way from the base network to this model."""

    digest: str
    """Of the trial."""
    name: str
    """Of the trial."""
    kind: str
    """`trained`, `imported`, `pas`, `pruned`, `quantised`, `transferred`, `control`; `unknown` where the store has lost
    it."""
    relation: Literal["start", "teacher"]
    """Whether the next one inherited its weights, or learnt from its outputs."""
    of: str | None = None
    """Digest of that next one."""
    accuracy: Fraction | None
    """By its metric; none where the store has lost it."""
    gmacs: float | None
    """Likewise."""
    weights_sha256: Sha256 | None
    """Likewise."""


class File(Part):
    """A file of the package."""

    sha256: Sha256
    bytes: NonNegativeInt


class Reference(Part):
    """A stored input and what the network made of it."""

    file: FilePath
    """safetensors: `picture`, uint8 [height, width, 3], of which frame i is moved i pixels to the right and around;
    `input`, what preprocessing makes of it; `output` and `stage.NAME` per feature map, what the network makes of that,
    in evaluation mode on a CPU; float32."""
    tolerance: Annotated[float, Field(gt=0)]
    """Largest difference of outputs and maps allowed, relative to max(1, |value|), on another machine."""


class ExportedFile(Part):
    """The same model as a file of another format."""

    format: str
    """`onnx`, `onnx-int8`, `int8`, `torch-export`."""
    folder: FilePath
    """Where it is in the package."""
    precision: Literal["fp32", "int8"]
    accuracy: Fraction | None
    """Measured on the file itself."""
    accepted: bool | None
    """Whether it was faster than the original and lost little enough accuracy when it was exported."""


class Licence(Part):
    """Under what it may be used."""

    spdx: str
    """SPDX expression, or `LicenseRef-…`, or `NOASSERTION` where nobody said."""
    note: str
    """What it covers, in a sentence."""


class Handoff(Part):
    """Everything that `handoff.json` says."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this contract."""
    name: str
    """For people."""
    digest: str
    """Of the trial that made it."""
    backbone: str
    """`slowfast`, `r2plus1d`, `reid`, …"""
    precision: Literal["fp32", "int8"]
    """In what the weights of this package compute."""
    network: dict[str, Any]
    """The spec from which the network is built; also in `network.json`."""
    stages: tuple[Stage, ...]
    """Feature maps; none of a network that computes in integers."""
    input: ClipInput | ImageInput = Field(discriminator="kind")
    """What it is fed."""
    output: Output
    """What it gives."""
    classes: tuple[str, ...]
    """Label names in the order of the logits; of embeddings the identities it was trained on."""
    accuracy: Accuracy
    cost: Cost
    licence: Licence
    lineage: tuple[Ancestor, ...]
    """From its nearest ancestor back to the base network."""
    provenance: dict[str, Any]
    """The trial as it was run (recipe, seed, data fingerprint) and the versions it was run with."""
    reference: Reference
    exports: tuple[ExportedFile, ...] = ()
    requires: dict[str, str]
    """Lowest versions of what is needed to read it: `python`, `torch`, …"""
    files: dict[FilePath, File] = Field(json_schema_extra={"additionalProperties": False})
    """Every other file of the package but the signature, by its path."""

    @model_validator(mode="after")
    def _hangs_together(self) -> Handoff:
        for path in (*REQUIRED_FILES, self.reference.file):
            if path not in self.files:
                raise ValueError(f"files lacks {path}")
        for exported in self.exports:
            if not any(path.startswith(f"{exported.folder}/") for path in self.files):
                raise ValueError(f"files has nothing in {exported.folder}, which exports names")
        if taken := {MANIFEST_FILE, SIGNATURE_FILE} & self.files.keys():
            raise ValueError(f"files has {min(taken)}, whose hash it can't know")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("stages has two of one name")
        if self.output.kind == "logits" and len(self.classes) != self.output.dimension:
            raise ValueError(f"classes has {len(self.classes)} names, but output.dimension is {self.output.dimension}")
        return self


def json_schema() -> str:
    """The JSON Schema of a written `handoff.json`, as text."""
    schema = Handoff.model_json_schema(mode="serialization")
    return json.dumps({"$schema": SCHEMA_DIALECT, **schema}, indent=1, ensure_ascii=False) + "\n"
