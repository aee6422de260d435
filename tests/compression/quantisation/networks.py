"""Small networks for the tests of quantisation, and what is done with all of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from compression.quantisation.torch_ao import default_engine, prepare, set_phase
from compression.spec import Quantisation

ENGINE = default_engine()
RULE = Quantisation(engine=ENGINE)


class Plain(nn.Module):
    """Convolution, batch norm, ReLU, pooling, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 5, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm3d(5)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(5, 4)

    def forward(self, clips: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool3d(self.relu(self.norm(self.conv(clips))), 1).flatten(1)
        out: Tensor = self.fc(self.dropout(pooled))
        return out


class Joined(nn.Module):
    """A residual addition, and a concatenation of pooled maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.inner = nn.Conv2d(4, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(4)
        self.side = nn.Conv2d(3, 2, 1)
        self.side_norm = nn.BatchNorm2d(2)
        self.shortcut = nn.Identity()
        self.fc = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        x = F.relu(self.norm(self.inner(x)) + self.shortcut(x))
        y = torch.relu(self.side_norm(self.side(images)))
        pooled = torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(y, 1)], 1)
        out: Tensor = self.fc(pooled.flatten(1))
        return out


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode with random weights and statistics, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.normal_(0.0, 0.3, generator=generator)
                if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
                    tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def random_inputs(*shape: int, seed: int = 1) -> Tensor:
    """Inputs as normalised videos have them."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(network: nn.Module, inputs: Tensor, rule: Quantisation = RULE, *, training: bool = False) -> GraphModule:
    """The network prepared, its ranges measured on these inputs, rounding simulated; in evaluation mode."""
    prepared = prepare(network, inputs[:1], rule, training=training).eval()
    set_phase(prepared, observe=True, simulate=False, freeze_norms=True)
    with torch.no_grad():
        prepared(inputs)
    set_phase(prepared, observe=False, simulate=True, freeze_norms=True)
    return prepared
