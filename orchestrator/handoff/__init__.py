"""Models handed to other programs: the package with its contract, and the reader that detectors import.

from orchestrator.handoff import load

model = load("packages/action", stages=["layer3", "layer4"])
maps = model.features(model.preprocess(frames))
"""

from orchestrator.handoff.reader import HandedModel, load

__all__ = ["HandedModel", "load"]
