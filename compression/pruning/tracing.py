"""Running networks that may not end, without touching them.

A network is run as a skeleton: a copy without weights, on the meta device. So its size doesn't matter, and a run that
is abandoned leaves nothing behind. It runs in a thread with a time limit, and errors name the module that was running.
"""

from __future__ import annotations

import copy
import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

GRACE_SECONDS = 1.0
"""How long a run that took too long is given to end."""
ADVICE = "its forward must be differentiable operations on tensors whose shapes follow from the input's"

T = TypeVar("T")


class GraphError(ValueError):
    """A network whose connections can't be traced."""


class Abandoned(BaseException):
    """Raised inside a run that takes too long; no `except Exception` of the network's stops it."""


def skeleton(module: nn.Module) -> nn.Module:
    """A copy of a network without weights and hooks, on the meta device, in evaluation mode.

    All its floating-point weights require gradients, whether or not the network's do.

    Raises:
        GraphError: the network holds something that can't be copied.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        twin = torch.empty_like(parameter, device="meta", requires_grad=False)
        memo[id(parameter)] = nn.Parameter(twin, requires_grad=twin.is_floating_point())
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for layer in module.modules():
        hooks = [value for key, value in vars(layer).items() if key.endswith("_hooks") and isinstance(value, dict)]
        memo |= {id(registered): OrderedDict() for registered in hooks}
    try:
        return copy.deepcopy(module, memo).eval()
    except Exception as error:
        place = type(module).__name__
        raise GraphError(f"{place} can't be traced: copying it raised {type(error).__name__}: {error}") from error


def watched(module: nn.Module, task: Callable[[], T], *, timeout_seconds: float) -> T:
    """The result of a task that runs a module.

    Args:
        module: on whose submodules the hooks are set that tell which of them is running; they are removed again.
        task: run in a thread of its own, with gradients.
        timeout_seconds: after which it is abandoned.

    Raises:
        GraphError: the task raised anything, or took too long; names the innermost module that was running.
    """
    running: list[str] = []
    hooks = [hook for name, layer in module.named_modules() for hook in watch(name, layer, running)]
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with torch.enable_grad():
                results.append(task())
        except BaseException as error:  # reported by the thread that waits
            errors.append(error)

    worker = threading.Thread(target=work, name="tracing", daemon=True)
    worker.start()
    try:
        worker.join(timeout_seconds)
        place = described(module, running[-1] if running else "")
        if worker.is_alive():
            raise GraphError(f"{place} can't be traced: it took more than {timeout_seconds:g} s; {ADVICE}")
        if errors:
            error = errors[0]
            if isinstance(error, GraphError):
                raise error
            raise GraphError(f"{place} can't be traced: {type(error).__name__}: {error}; {ADVICE}") from error
        return results[0]
    finally:
        abandon(worker)
        for hook in hooks:
            hook.remove()


def watch(name: str, layer: nn.Module, running: list[str]) -> list[torch.utils.hooks.RemovableHandle]:
    """Let a layer enter its name in a list while it runs; it stays there if the layer raises."""
    return [
        layer.register_forward_pre_hook(lambda *_: running.append(name)),
        layer.register_forward_hook(lambda *_: void(running.pop())),
    ]


def void(_: object) -> None:
    """Nothing: what a hook returns would replace the layer's output."""


def described(module: nn.Module, name: str) -> str:
    """A submodule's name and class."""
    kind = type(module.get_submodule(name)).__name__
    return f"{name} ({kind})" if name else kind


def abandon(worker: threading.Thread) -> None:
    """End a thread that may be running Python code without end; one that is stuck elsewhere is left to itself."""
    if worker.is_alive() and worker.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(Abandoned))
        worker.join(GRACE_SECONDS)
