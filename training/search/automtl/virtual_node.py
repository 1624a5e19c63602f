"""Virtual computation node: an operator of the backbone with all options that tasks have there."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from training.search.automtl.policy import Option
from training.search.automtl.skip import skip_of


class VirtualComputationNode(nn.Module):
    """AutoMTL's VCN (section 3.1). Its policy variables are a row of `Supermodel.policy_logits_tl3`.

    Args:
        name: Name of the operator in the backbone.
        index: l - 1: its row in the policy.
        depth: l of Eq. 2: operators on the longest way from the input to it, itself included.
        parents: Names of the nodes its input comes from, by way of operators without parameters.
        parts: The backbone's modules it consists of; copied.
        tasks: Names of the tasks.

    Attributes:
        shared: The backbone's operator.
        specific: One copy of it for each task.
        skip: One skip connection; it has no parameters, so that all tasks' are the same.
    """

    def __init__(
        self,
        name: str,
        index: int,
        depth: int,
        parents: tuple[str, ...],
        parts: Sequence[nn.Module],
        tasks: Sequence[str],
    ) -> None:
        super().__init__()
        self.name, self.index, self.depth, self.parents = name, index, depth, parents
        self.shared = copy_operator(parts)
        self.specific = nn.ModuleDict({task: copy_operator(parts) for task in tasks})
        self.skip = skip_of(self.shared)

    @property
    def parameters_of_one(self) -> int:
        """Number of parameters of the operator once."""
        return sum(parameter.numel() for parameter in self.shared.parameters())

    def module_of(self, option: Option, task: str | None) -> nn.Module:
        """Returns what an option executes; `task` names whose copy."""
        if option is Option.SHARED:
            return self.shared
        if option is Option.SKIP:
            return self.skip
        assert task is not None
        return self.specific[task]


def copy_operator(parts: Sequence[nn.Module]) -> nn.Module:
    """Returns copies of modules as one module; none of them works in place."""
    copies = [_copy(part) for part in parts]
    return copies[0] if len(copies) == 1 else nn.Sequential(*copies)


def _copy(module: nn.Module) -> nn.Module:
    plain = (
        type(module).__module__.startswith("torch.nn.modules")
        and not module._modules
        and not module._forward_pre_hooks
        and not module._forward_hooks
    )
    if not plain:  # parametrizations and hooks hold references that only deepcopy follows
        copied = copy.deepcopy(module)
    else:
        # A tenth of deepcopy's time; a backbone has hundreds of layers.
        copied = type(module).__new__(type(module))
        copied.__dict__.update(
            {
                name: value.copy() if isinstance(value, (dict, set)) else value
                for name, value in module.__dict__.items()
            }
        )
        for name, parameter in module._parameters.items():
            if parameter is not None:
                copied._parameters[name] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                copied._buffers[name] = buffer.detach().clone()
    if getattr(copied, "inplace", False):
        copied.__dict__["inplace"] = False
    return copied
