"""Less memory for gradients through a network: blocks that keep only their inputs.

A gradient through a network needs what every layer computed on the way. A block that is computed again on
the way back needs its inputs only: memory falls to that of the inputs and of one block, for one more
forward pass. Values and gradients are the same numbers (Chen et al., arXiv 1604.06174).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from smcguide.errors import InvalidInput


def recompute_blocks(net: nn.Module, *kinds: type[nn.Module]) -> nn.Module:
    """Let the blocks of a network keep only their inputs for the way back.

    Nothing changes where no gradient is asked for.

    Arguments:
        net: the network, in evaluation mode; changed in place.
        kinds: classes of the blocks; the outermost instances count. None: the network's own
            `enable_gradient_checkpointing` (diffusers), else the members of its ModuleLists.

    Returns:
        net.

    Raises:
        InvalidInput: where the network has no such blocks, or is none.
    """
    if not isinstance(net, nn.Module):
        raise InvalidInput(
            f"recompute_blocks: got {type(net).__name__}; expected the network, an nn.Module, such as "
            "prior.net."
        )
    for kind in kinds:
        if not isinstance(kind, type):
            raise InvalidInput(
                f"recompute_blocks: got {kind!r}; expected the blocks' class, "
                "recompute_blocks(net, Block)."
            )
    own = getattr(net, "enable_gradient_checkpointing", None)
    if own is not None and not kinds:
        own()
        return net
    blocks = list(_outermost(net, kinds))
    if not blocks:
        wanted = " or ".join(kind.__name__ for kind in kinds) or "member of a ModuleList"
        inside = sorted({type(child).__name__ for child in net.modules() if child is not net})
        raise InvalidInput(
            f"recompute_blocks: {type(net).__name__} contains no {wanted}; name the class of its blocks, "
            f"recompute_blocks(net, Block). It contains {', '.join(inside) or 'no modules'}."
        )
    for block in blocks:
        block.forward = partial(_again, block.forward)
    return net


def _outermost(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    for child in net.children():
        if isinstance(child, kinds):
            yield child
        elif isinstance(child, nn.ModuleList) and not kinds:
            yield from child
        else:
            yield from _outermost(child, kinds)


def _again(forward: Any, *args: Any, **named: Any) -> Any:
    """forward(*args, **named), computed once more when its gradient is asked for."""
    if not torch.is_grad_enabled():
        return forward(*args, **named)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **named)
