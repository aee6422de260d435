"""The part of a card that tells how an input is made and how the model is loaded, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise

from orchestrator.handoff.manifest import ClipInput, Handoff, ImageInput, Resize, Triple
from orchestrator.handoff.markdown import escaped, table

SHOWN_INDICES = 8
"""How many frame numbers are listed where they keep a constant distance."""


def input_section(handoff: Handoff) -> str:
    """How an input is made of a video or a picture, as a table of steps."""
    given = handoff.input
    steps = _clip_steps(given) if given.kind == "clip" else _image_steps(given)
    rows = [(str(number), what, how) for number, (what, how) in enumerate(steps, 1)]
    return f"## Input\n\n{table(['step', 'what', 'how'], rows)}"


def _clip_steps(given: ClipInput) -> Iterable[tuple[str, str]]:
    yield "read", f"the video as RGB frames of 8 bits, at {given.fps:g} frames per second"
    yield "cut", f"{given.span} consecutive frames"
    if given.frame_indices != tuple(range(given.span)):
        yield "pick", f"{given.frames} of them, counted from 0: {indices(given.frame_indices)}"
    yield "resize", _resize(given.resize)
    yield "crop", f"the square of {given.side} × {given.side} pixels in the middle"
    yield "scale", _scale(given.mean, given.std)
    shape = f"1, 3, {given.frames}, {given.side}, {given.side}"
    yield "arrange", f"float32 [{escaped(given.layout).replace(' ', ', ')}], one clip is [{shape}]"
    yield "decide", f"{_decision(given)}, as accuracy was measured"


def _decision(given: ClipInput) -> str:
    """How clips speak for a whole video."""
    if given.clips_per_video == 1:
        return "for a whole video, the softmax of the clip in its middle"
    return f"for a whole video, average the softmax of {given.clips_per_video} clips, uniform in time"


def _image_steps(given: ImageInput) -> Iterable[tuple[str, str]]:
    yield "read", "the picture of one person or thing as RGB of 8 bits"
    yield "resize", _resize(given.resize)
    yield "scale", _scale(given.mean, given.std)
    shape = f"1, 3, {given.height}, {given.width}"
    yield "arrange", f"float32 [{escaped(given.layout).replace(' ', ', ')}], one image is [{shape}]"
    if given.mirrored:
        yield "add", "the vector of the image mirrored left to right to its own, as accuracy was measured"


def indices(numbers: Sequence[int]) -> str:
    """Ascending numbers; the middle of a long row is left out where the distance is constant: `0, 2, …, 30`."""
    steps = {after - before for before, after in pairwise(numbers)}
    if len(numbers) <= SHOWN_INDICES or len(steps) > 1:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]}, {numbers[1]}, …, {numbers[-1]}"


def _resize(rule: Resize) -> str:
    if rule.size is not None:
        height, width = rule.size
        to = f"to {height} pixels high and {width} wide"
    else:
        to = f"the shorter side to {rule.short_side} pixels, the other in proportion, rounded to the nearest integer"
    return f"{to}; {rule.interpolation} with antialiasing, on 8-bit values"


def _scale(mean: Triple, std: Triple) -> str:
    return f"divide by 255, subtract {_colours(mean)}, divide by {_colours(std)}"


def _colours(values: Triple) -> str:
    """One number where red, green and blue share it."""
    numbers = [f"{value:g}" for value in dict.fromkeys(values)]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(f'{value:g}' for value in values)}) per colour"


def use_section(handoff: Handoff) -> str:
    """How the package is loaded: by our reader, and by ONNX Runtime where there is such a file."""
    given = handoff.input
    made = (
        "frames)  # uint8 [frame, height, width, 3]" if given.kind == "clip" else "image)  # uint8 [height, width, 3]"
    )
    features = FEATURES.format(stage=json.dumps(handoff.stages[-1].name)) if handoff.stages else ""
    what = "scores" if handoff.output.kind == "logits" else "vectors"
    parts = [READER.format(made=made, what=what, features=features)]
    for exported in handoff.exports:
        if exported.format in ("onnx", "onnx-int8"):
            file = json.dumps(f"{exported.folder}/model.onnx")
            parts.append(ONNX_RUNTIME.format(file=file, precision=exported.precision))
    return "\n\n".join(["## Use", *parts])


READER = """In this folder; neither training code nor data is needed:

```python
from orchestrator.handoff import load

model = load(".")
inputs = model.preprocess({made}
{what} = model(inputs){features}
```

`handoff.json` says all of the above for programs; `model.safetensors` has the weights. Nothing is unpickled."""

FEATURES = """
maps = model.features(inputs)  # by name, for example maps[{stage}]"""

ONNX_RUNTIME = """With ONNX Runtime, computing in {precision}:

```python
import onnxruntime

session = onnxruntime.InferenceSession({file}, providers=["CPUExecutionProvider"])
(outputs,) = session.run(None, {{session.get_inputs()[0].name: inputs.numpy()}})  # float32, made as above
```"""
