"""Making layers whose values are replaced anyway."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RANDOM = frozenset(
    {nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.uniform_, nn.init.normal_}
    | {Tensor.uniform_, Tensor.normal_}
)
"""How torch's layers get their first values."""


class NoRandomWeights(TorchFunctionMode):
    """Makes layers without initialising them at random: that takes time, and random numbers missed elsewhere."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The tensor as it is instead of a random one; all else as ever."""
        if func in RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
