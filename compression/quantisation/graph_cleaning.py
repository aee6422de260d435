"""From a network to a graph of its operations in the form in which it can be quantised.

What happens is told by the graph alone, without a quantisation library: calls that compute nothing are removed, and
operations that can be written in several ways are written in the way that has an integer kernel.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import jaxtyping
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer

from compression.quantisation.layers import QuantisationError

LAYERS: dict[type[nn.Module], str] = {
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.Linear: "linear",
}
"""Modules with weights that have an integer kernel, and what they are called in reports."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Modules that run inside the layer before them."""
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
RELUS = (F.relu, torch.relu)
MAX_POOLS_3D = (nn.MaxPool3d, F.max_pool3d, torch.max_pool3d)
"""How the largest value of a window of frames is written; `qnnpack` has no such kernel."""
SMALLEST_SCALE = 1e-6
"""Of a batch norm, as a magnitude."""


@dataclass(frozen=True)
class Group:
    """A layer and what runs within it once it is fused."""

    layer: str
    """Path of the convolution or linear layer."""
    norm: str | None = None
    """Path of the batch norm after it."""
    activation: str | None = None
    """Path of the ReLU after that."""

    @property
    def fused(self) -> tuple[str, ...]:
        """What runs within the layer, in order."""
        return tuple(name for name in (self.norm, self.activation) if name is not None)


class NamingTracer(Tracer):
    """A tracer that knows which module it was in when it failed."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, nn.Module]] = []

    def call_module(self, m, forward, args, kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, D102
        self.running.append((self.path_of_module(m), m))
        result = super().call_module(m, forward, args, kwargs)
        self.running.pop()
        return result


@contextlib.contextmanager
def unchecked_annotations() -> Iterator[None]:
    """Let what stands for a tensor while a network is traced pass for one where tests check annotations."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def quantisable_layers(network: nn.Module) -> tuple[str, ...]:
    """Names of the convolutions and linear layers that have integer kernels, in the network's order."""
    return tuple(name for name, module in network.named_modules() if type(module) in LAYERS)


def cleaned(network: nn.Module) -> GraphModule:
    """The graph of a copy of a network, in the network's mode (training or evaluation).

    Raises:
        QuantisationError: it can't be traced; names the module that was running.
    """
    network = copy.deepcopy(network)
    tracer = NamingTracer()
    try:
        with unchecked_annotations():
            graph = tracer.trace(network)
    except Exception as error:
        path, module = tracer.running[-1] if tracer.running else ("", network)
        raise QuantisationError(
            f"{described(path, module)} can't be quantised: tracing it raised {type(error).__name__}: {error}; "
            "its forward must be operations on tensors that do not depend on their values"
        ) from error
    traced = GraphModule(network, graph)
    remove_identities(traced)
    write_flatten_as_function(traced.graph)
    write_activations_as_modules(traced)
    traced.graph.lint()
    traced.recompile()
    return traced


def described(path: str, module: nn.Module) -> str:
    """A module's path and class."""
    return f"{path} ({type(module).__name__})" if path else type(module).__name__


def bypass(graph: Graph, node: Node) -> None:
    """Take an operation out of a graph: what was given to it goes to whoever used its result."""
    source = node.args[0]
    assert isinstance(source, Node)
    node.replace_all_uses_with(source)
    graph.erase_node(node)


def remove_identities(traced: GraphModule) -> None:
    """Remove calls of modules that return what they are given: each costs time in small networks."""
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        module = traced.get_submodule(str(node.target))
        if type(module) is nn.Identity or (isinstance(module, DROPOUTS) and module.p == 0):
            bypass(traced.graph, node)


def remove_dropouts(traced: GraphModule) -> None:
    """Remove all dropout: nothing of it is left in evaluation."""
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), DROPOUTS):
            bypass(traced.graph, node)
    traced.recompile()


def write_flatten_as_function(graph: Graph) -> None:
    """Write `x.flatten(1)` as `torch.flatten(x, 1)`, which alone is known to work on integers."""
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "flatten":
            replace(graph, node, torch.flatten)


def replace(graph: Graph, node: Node, function: object) -> None:
    """Call a function with the node's arguments in its place."""
    with graph.inserting_before(node):
        new = graph.create_node("call_function", function, node.args, node.kwargs)  # type: ignore[arg-type]
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def write_activations_as_modules(traced: GraphModule) -> None:
    """Give every ReLU a module of its own, so that it can be fused with the layer before it by name."""
    seen: set[str] = set()
    for node in list(traced.graph.nodes):
        if not is_relu(traced, node):
            continue
        name = str(node.target) if node.op == "call_module" else ""
        if not name or name in seen:
            name = free_name(traced, node)
            traced.add_submodule(name, nn.ReLU())
            with traced.graph.inserting_before(node):
                new = traced.graph.call_module(name, (node.args[0],))
            node.replace_all_uses_with(new)
            traced.graph.erase_node(node)
        seen.add(name)


def is_relu(traced: GraphModule, node: Node) -> bool:
    """Whether an operation is a ReLU, however it is written."""
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))) is nn.ReLU
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in RELUS


def free_name(traced: GraphModule, node: Node) -> str:
    """A path for a new ReLU: beside the module whose result it is given, or else at the top."""
    source = node.args[0]
    assert isinstance(source, Node)
    parent = str(source.target).rpartition(".")[0] if source.op == "call_module" else ""
    stem = f"{parent}.relu" if parent else "relu"
    taken = {name for name, _ in traced.named_modules(remove_duplicate=False)}
    number = 1
    while f"{stem}_{number}" in taken:
        number += 1
    return stem if stem not in taken else f"{stem}_{number}"


def groups_of(traced: GraphModule) -> dict[str, Group]:
    """Every layer that the graph runs, by its name, with the batch norm and the ReLU that alone use its result."""
    groups = {}
    for node in traced.graph.nodes:
        if node.op != "call_module" or type(traced.get_submodule(str(node.target))) not in LAYERS:
            continue
        norm = only_user(traced, node, NORMS)
        activation = only_user(traced, norm or node, (nn.ReLU,))
        groups[str(node.target)] = Group(
            str(node.target),
            str(norm.target) if norm else None,
            str(activation.target) if activation else None,
        )
    return groups


def only_user(traced: GraphModule, node: Node, kinds: tuple[type[nn.Module], ...]) -> Node | None:
    """The one operation that uses a result, if it is a module of one of these kinds."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    if user.op == "call_module" and type(traced.get_submodule(str(user.target))) in kinds:
        return user
    return None


def check_pools(traced: GraphModule, engine: str) -> None:
    """Refuse pooling for which an engine has no kernel; it would only fail once it runs.

    Raises:
        QuantisationError: there is some; names it.
    """
    for node in traced.graph.nodes if engine == "qnnpack" else ():
        path = str(node.target) if node.op == "call_module" else node.name
        kind = type(traced.get_submodule(path)) if node.op == "call_module" else node.target
        if kind in MAX_POOLS_3D:
            raise QuantisationError(
                f"{path} ({kind.__name__}) can't be quantised: {engine} has no kernel for it; "
                "take another engine, onednn or x86, or a network that does not pool frames like that"
            )


def check_modules(traced: GraphModule, network: nn.Module, excluded: tuple[str, ...]) -> None:
    """Refuse weights that would be left in floating point without a word.

    Args:
        traced: the network's cleaned graph.
        network: the network.
        excluded: layers that are to stay in floating point.

    Raises:
        QuantisationError: there are some; names the module.
    """
    fused = {name for group in groups_of(traced).values() for name in group.fused}
    runs: dict[str, int] = {}
    for node in traced.graph.nodes:
        path = str(node.target)
        if node.op == "get_attr" and isinstance(operator.attrgetter(path)(traced), nn.Parameter):
            owner = path.rpartition(".")[0]
            raise unsupported(owner, network.get_submodule(owner))
        if node.op == "call_module":
            runs[path] = runs.get(path, 0) + 1
            check_module(path, traced.get_submodule(path), fused, excluded)
    twice = [path for path, times in runs.items() if times > 1 and holds_weights(traced.get_submodule(path))]
    if twice:
        raise QuantisationError(
            f"{described(twice[0], traced.get_submodule(twice[0]))} runs {runs[twice[0]]} times, but can only have "
            "one range of values; give each call a module of its own"
        )


def check_module(path: str, module: nn.Module, fused: set[str], excluded: tuple[str, ...]) -> None:
    """Refuse a module with weights that has no integer kernel; see `check_modules`."""
    if not holds_weights(module) or path in excluded:
        return
    if type(module) in NORMS:
        if path not in fused:
            raise QuantisationError(
                f"{described(path, module)} can't be quantised: it does not directly follow a convolution, "
                "so it can't be folded into one"
            )
    elif type(module) not in LAYERS:
        raise unsupported(path, module)
    elif getattr(module, "padding_mode", "zeros") != "zeros" or isinstance(getattr(module, "padding", 0), str):
        raise QuantisationError(
            f"{described(path, module)} can't be quantised: its padding is {module.padding!r} ({module.padding_mode}), "
            "but integer kernels pad with a number of zeros; leave it in floating point by naming it in float_layers"
        )


def holds_weights(module: nn.Module) -> bool:
    """Whether a module has parameters, or statistics that act like them."""
    return isinstance(module, NORMS) or next(module.parameters(), None) is not None


def unsupported(path: str, module: nn.Module) -> QuantisationError:
    """What is said of a module whose weights no integer kernel knows."""
    known = ", ".join(kind.__name__ for kind in LAYERS)
    return QuantisationError(
        f"{described(path, module)} can't be quantised: it has weights, but integer kernels only exist for {known}, "
        "with batch norm after them"
    )


def lift_dead_scales(network: nn.Module) -> None:
    """Move the scales of batch norms away from zero, in place: |γ| is at least `SMALLEST_SCALE`.

    In training with simulated rounding, a convolution's result is divided by γ/σ: 0 gives NaN. Residual blocks start
    with γ = 0, and trained scales can die.
    """
    for module in network.modules():
        if isinstance(module, NORMS) and module.affine:
            scale = module.weight.data
            lifted = torch.where(scale < 0, -SMALLEST_SCALE, SMALLEST_SCALE).to(scale.dtype)
            module.weight.data = torch.where(scale.abs() < SMALLEST_SCALE, lifted, scale)
