"""The lineage of what one run hands on, drawn from its state; where its teacher comes from is asked of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compression.reduction import AXES
from orchestrator.quantise.table import label_of
from orchestrator.registry.model import Kind
from orchestrator.registry.registry import Registry
from orchestrator.registry.runs import exported
from orchestrator.report import METRICS, Row, State, accuracy, clip, gmacs, metric_of, percent
from orchestrator.report.lineage_figure import Node, trace
from orchestrator.report.states import read_states
from orchestrator.store import Store
from orchestrator.sweep.table import LABELS
from trainers.files import read_json
from trainers.results import RESULT_FILE

STEPS: dict[str, Kind] = {"pas": "pas", "prune": "pruned", "quantise": "quantised"}
"""How the steps of a chain make networks."""


def origins_of(store: Store, state: State) -> tuple[Node, ...]:
    """What the teacher of a run was made of, the base network first; nothing where it was trained from random weights.

    The store is read as a whole only where there is something to be found.
    """
    digest = state["teacher"]["trial"]
    trial = (read_json(store.trial_folder(digest) / RESULT_FILE) or {}).get("trial", {})
    if not any(trial.get(key) for key in ("start", "teacher", "weights_sha256")):
        return ()
    ancestry = trace(Registry.open(store).models, read_states(store)[0].values())
    first, *older = ancestry.path(digest)
    above = older if first == digest else [first, *older]
    return tuple(replace(ancestry.node(step), others=()) for step in reversed(above))


def run_forest(state: State, origins: Sequence[Node] = ()) -> tuple[Node, ...]:
    """The tree of what a run hands on, below what its teacher was made of; empty where there is only the teacher.

    Args:
        state: the run, in whatever state it is.
        origins: see `origins_of`.
    """
    if "transfers" in state:
        return tuple(_transferred(model, state) for model in exported(state))
    teacher, *models = exported(state)
    in_line = "steps" in state or "family" in state  # each is made of the one before
    tree = Node(name="Teacher", kind="trained", change=_origin(origins), numbers=_numbers(teacher, state))
    nodes = [_node(model, state) for model in models]
    if in_line:
        below: tuple[Node, ...] = ()
        for node in reversed(nodes):
            below = (replace(node, children=below),)
    else:
        below = tuple(nodes)
    tree = replace(tree, children=below)
    for origin in reversed(origins):
        tree = replace(origin, children=(tree,))
    return (tree,) if tree.children else ()


def _transferred(model: Row, state: State) -> Node:
    """A network that was fine-tuned, below what it was before."""
    change = f"fine-tuned on {state['data']['source']}"
    tuned = Node(name=model["name"], kind="transferred", change=change, numbers=_numbers(model, state))
    return Node(name=model["model"], kind="trained", change="", numbers="", children=(tuned,))


def _origin(origins: Sequence[Node]) -> str:
    return "what this run began with" if origins else ""


def _node(model: Row, state: State) -> Node:
    """A model of a run; what was done is said by whatever kind of run it is."""
    kind: Kind = "trained"
    change, name = "", str(model.get("title") or model["name"])
    if "step" in model:
        kind = STEPS.get(model["step"], "trained")  # its title says what was done
    elif "pruner" in model:
        kind, change = "pruned", f"{LABELS.get(model['pruner'], model['pruner'])} at sparsity {model['sparsity']:g}"
    elif "method" in model:
        kind, change = "quantised", f"INT8 by {label_of(model['method'], model['fallbacks'])}"
    elif model.get("axis") in AXES:
        kind, change = "pas", f"{AXES[model['axis']].name} reduced: {clip(model)}"
    return Node(name=name, kind=kind, change=change, numbers=_numbers(model, state))


def _numbers(row: Row, state: State) -> str:
    metric = metric_of(state)
    value, cost = accuracy(row, metric), row["gmacs"]
    parts = [f"{percent(value)} {METRICS[metric]}"] if value is not None else []
    return " · ".join([*parts, *([f"{gmacs(cost)} GMACs"] if cost is not None else [])])
