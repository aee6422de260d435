"""What the Hugging Face Hub reads of a model card: the YAML between two lines of dashes at its beginning.

The keys are those of `huggingface_hub.ModelCardData`; the library itself is not needed to write them.

Sources:
    [1] Model cards on the Hub: https://huggingface.co/docs/hub/model-cards
    [2] Identifiers of licences: https://huggingface.co/docs/hub/repositories-licenses
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from orchestrator.handoff.manifest import Handoff, Licence
from orchestrator.handoff.markdown import plain
from orchestrator.report import WORDS

LIBRARY = "video-compression-orchestrator"
"""By which the package is loaded."""
TASKS = {
    "top1": ("video-classification", "Video Classification"),
    "map": ("image-feature-extraction", "Image Feature Extraction"),
}
"""The Hub's identifier of what a network does and its name there, by metric."""
METRICS: dict[str, dict[str, tuple[str, dict[str, int]]]] = {
    "top1": {"top1": ("accuracy", {"top_k": 1}), "top5": ("accuracy", {"top_k": 5})},
    "map": {"map": ("map", {}), "top1": ("cmc", {"rank": 1}), "top5": ("cmc", {"rank": 5})},
}
"""The Hub's identifier of a measure and its arguments, by metric and key."""
DATA_SETS = {
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "market1501": "Market-1501",
    "moving-digits": "Moving digits (synthetic)",
    "synthetic-people": "Synthetic people",
}
"""Names of data sets by source; the other sources are layouts in which anything may lie."""
OWN_DATA = ("own", "own data")
"""Identifier and name of a data set that has none."""
DIGITS = 6
"""Decimal places of an accuracy; more are noise of 32-bit floats."""
HUB_LICENCES = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gpl-2.0
    gpl-3.0 isc lgpl-2.1 lgpl-3.0 lgpllr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl-1.0 odc-by-1.0 ofl-1.1 osl-3.0
    pddl-1.0 postgresql unlicense wtfpl zlib
"""
"""SPDX identifiers in lower case of the licences that the Hub knows [2]; its families and products have none."""
RENAMED = {"odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pddl-1.0": "pddl", "lgpllr": "lgpl-lr"}
"""Those that the Hub calls otherwise."""


def front_matter(handoff: Handoff) -> str:
    """The YAML block with its dashes.

    It names no base model: that would have to be one of the Hub, which a store knows nothing about.
    """
    text = yaml.safe_dump(card_data(handoff), sort_keys=False, allow_unicode=True, width=math.inf)
    return f"---\n{text}---\n"


def card_data(handoff: Handoff) -> dict[str, Any]:
    """Content of the block; JSON-ready."""
    formats = [exported.format for exported in handoff.exports]
    tags = ["model-compression", handoff.backbone, handoff.precision, *formats]
    task, _ = TASKS[handoff.accuracy.metric]
    results = _results(handoff)
    return {
        **licence_fields(handoff.licence),
        "library_name": LIBRARY,
        "pipeline_tag": task,
        "tags": list(dict.fromkeys(tags)),
        **({"model-index": [{"name": plain(handoff.name), "results": [results]}]} if results["metrics"] else {}),
    }


def licence_fields(licence: Licence) -> dict[str, str]:
    """The licence as the Hub calls it; by its own name where it has none there."""
    if licence.spdx == "NOASSERTION":
        return {"license": "unknown"}
    name = re.sub("-(only|or-later)$", "", licence.spdx.lower())
    if name in HUB_LICENCES.split():
        return {"license": RENAMED.get(name, name)}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", licence.spdx.lower()).strip("-") or "other"}


def data_set(source: str | None) -> tuple[str, str]:
    """Identifier and name of a data set."""
    return (source, DATA_SETS[source]) if source in DATA_SETS else OWN_DATA


def _results(handoff: Handoff) -> dict[str, Any]:
    """What was measured, as an entry of `model-index`."""
    measured = handoff.accuracy
    task, task_name = TASKS[measured.metric]
    identifier, name = data_set(measured.data_source)
    examples = {} if measured.examples is None else {"examples": measured.examples}
    return {
        "task": {"type": task, "name": task_name},
        "dataset": {"type": identifier, "name": name, "args": {"fingerprint": measured.fingerprint, **examples}},
        "metrics": [
            {
                "type": METRICS[measured.metric][key][0],
                "value": round(value, DIGITS),
                "name": label,
                **({"args": arguments} if (arguments := METRICS[measured.metric][key][1]) else {}),
            }
            for label, key in WORDS[measured.metric].accuracies.items()
            if (value := getattr(measured, key)) is not None
        ],
    }
