"""The boundary: everything that can be wrong with a model is found here, once, before the first
network call, and said in terms of what was given, what is expected and what to do."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smcguide.chunking import check_chunk_size
from smcguide.errors import InvalidInput
from smcguide.grids import Grid
from smcguide.kernels.base import Kernel
from smcguide.moves.base import Move
from smcguide.parameter_moves.base import ParameterMove
from smcguide.potentials.base import Potential
from smcguide.priors.base import Prior, require_float
from smcguide.proposals.base import Proposal
from smcguide.starts.base import Start

_SMALLEST_START = 10.0  # sigma / alpha, where a grid does not begin at the noise end


def resolve_times(times: Grid | Tensor | Sequence[float], prior: Prior) -> list[float]:
    """K + 1 times from noise to 0, data, which is reached once; usually decreasing.

    Raises:
        InvalidInput: for anything else, and for a start where the prior's law is not known.
    """
    schedule = prior.schedule
    values = times(schedule) if callable(times) else times
    values = torch.as_tensor(values, dtype=torch.float64)
    ok = values.ndim == 1 and len(values) > 1 and bool((values.diff() != 0).all())
    ok = ok and float(values[-1]) == 0 and bool((values[:-1] > 0).all())
    if not ok or float(values[0]) != float(values.max()) or float(values[0]) > schedule.t_max:
        raise InvalidInput(
            f"times {values.tolist()}: expected at least two strictly decreasing times, the first at "
            f"most {schedule.t_max} (noise, {schedule!r}) and the last exactly 0 (data). (A grid may go "
            "up again on its way, see grids.recurrent, but never above its first time.)"
        )
    first = schedule.level(float(values[0]))
    knows = type(prior).initial is not Prior.initial
    if not knows and float(values[0]) < schedule.t_max and first.ratio < _SMALLEST_START:
        raise InvalidInput(
            f"times start at {first.time:.4g}, where sigma / alpha is only {first.ratio:.3g}: the law of "
            f"x_t there is not N(0, sigma^2), so no weight can be formed. Start at {schedule.t_max:.4g}."
        )
    return [float(t) for t in values]


def as_prior(prior: Any) -> Prior:
    """The prior itself.

    Raises:
        InvalidInput: for anything else, a bare network in particular.
    """
    if not isinstance(prior, Prior):
        raise InvalidInput(
            f"prior: got a {type(prior).__name__}; wrap a network with NetworkPrior(net, schedule, "
            "prediction, event_shape) or from_diffusers(...)."
        )
    return prior


def require(part: Any, kind: type, name: str) -> None:
    """Raise InvalidInput unless a part is an object of its room."""
    if not isinstance(part, kind):
        hint = f"; write {part.__name__}()" if isinstance(part, type) else ""
        raise InvalidInput(
            f"{name}: got {part!r}, expected an object of smcguide.{name}s ({kind.__name__}){hint}."
        )


def dry_run(model: Any, potential: Any, proposal: Any) -> None:
    """Check that prior, kernel, cost, potential and proposal fit, without a network call.

    Raises:
        InvalidInput: with the first misfit found.
    """
    prior, cost = model.prior, model.cost
    for name, kind in (("kernel", Kernel), ("potential", Potential), ("proposal", Proposal)):
        require(model.parts[name], kind, name)
    check_chunk_size(model.chunk_size)
    require_float(prior.dtype, repr(prior))
    cost.check(model.event_shape, torch.zeros((), dtype=prior.dtype, device=prior.device))
    generator = torch.Generator().manual_seed(0)
    shape = (cost.num_systems or 1, 2, *model.event_shape)
    x = torch.randn(shape, generator=generator, dtype=prior.dtype).to(prior.device)
    cost = typical(cost, x)
    values = cost(x)
    if values.shape != shape[:2]:
        raise InvalidInput(
            f"The cost {cost!r} maps {shape} to {tuple(values.shape)}; expected {shape[:2]}."
        )
    if bool((torch.isnan(values) | torch.isneginf(values)).any()):
        raise InvalidInput(
            f"The cost {cost!r} is {values.flatten().tolist()} on standard normal events; a cost must "
            "not be NaN or -inf (+inf is allowed and means impossible)."
        )
    potential.check(model.cost)
    _check_gradient(cost, x, potential, potential)
    proposal.check(model.cost, potential)
    if proposal.is_guided:
        _check_gradient(cost, x, proposal, potential)
        _check_noise(model, proposal)
    for name, base in (("move", Move), ("start", Start)):
        if (part := model.parts.get(name)) is not None:
            require(part, base, name)
            part.check(potential, model.levels)
            _check_gradient(cost, x, part, potential)
    _check_parameters(model, potential, x)


def typical(cost: Any, x: Tensor, needs_gradient: bool = False) -> Any:
    """The cost of events x (S, N, *E) with parameters from their prior; itself without any."""
    parameters = cost.parameters
    if parameters is None:
        return cost
    theta = parameters.draw(x.shape[0] * x.shape[1], torch.Generator(x.device).manual_seed(0))
    return cost.at(theta.requires_grad_(needs_gradient).unflatten(0, x.shape[:2]))


def _check_parameters(model: Any, potential: Any, x: Tensor) -> None:
    """Raise InvalidInput unless a model has a move of parameters exactly where it has parameters."""
    parameters, move = model.cost.parameters, model.parameter_move
    if parameters is None and move is None:
        return
    if parameters is None:
        raise InvalidInput(f"parameter_move={move!r}: the cost {model.cost!r} has no parameters.")
    require(move, ParameterMove, "parameter_move")
    if not potential.is_markov:
        raise InvalidInput(
            f"The value of {potential!r} depends on a particle's past, under the parameters it had then. "
            "With unknown parameters use potentials.KrylovLaplace() or potentials.Tweedie()."
        )
    if not move.needs_gradient:
        return
    known = is_differentiable(lambda x: typical(model.cost, x, True)(x.detach()), x)
    if not (known and potential.has_gradient):
        raise InvalidInput(
            f"{move!r} follows the gradient of {potential if known else model.cost!r} with respect to "
            "the parameters, and there is none. Use parameter_moves.RandomWalk()."
        )


def _check_gradient(cost: Any, x: Tensor, part: Any, potential: Any) -> None:
    wants = getattr(part, "needs_gradient", False)  # the value's, and by default the cost's
    blind = wants and not potential.has_gradient
    if blind or (getattr(part, "needs_cost_gradient", wants) and not is_differentiable(cost, x)):
        raise InvalidInput(
            f"{part!r} follows the gradient of the {'potential' if blind else 'cost'} "
            f"{potential if blind else cost!r}, which cannot be differentiated. Use potentials."
            "Tweedie(), proposals.Bootstrap() or moves.PCN(), which need values only."
        )


def is_differentiable(cost: Any, x: Tensor) -> bool:
    """Whether the cost of events x (S, N, *E) carries a gradient."""
    try:
        with torch.enable_grad():
            return bool(cost(x.clone().requires_grad_()).requires_grad)
    except (RuntimeError, TypeError):  # e.g. a simulator that leaves torch
        return False


def _check_noise(model: Any, proposal: Any) -> None:
    for k in range(model.num_steps - 1):
        if model.is_noiseless(k):
            raise InvalidInput(
                f"{model.kernel!r} has no noise in the step from time {model.time(k):.4g}, so the "
                f"shift of the guided proposal {proposal!r} could not be weighted. Use "
                "kernels.DDIM(eta=1.0) or another eta > 0, or proposals.Bootstrap()."
            )


def blame(model: Any, k: int) -> tuple[str, str]:
    """Culprit and remedy for illegal weights after k transitions of a guided diffusion."""
    if k == model.num_steps:
        return f"the cost {model.cost!r}", "Check that it is finite where the posterior lives."
    if getattr(model.prior, "network_dtype", None) == torch.float16:
        return (
            f"the network in float16, whose numbers end at 65504, or the potential {model.potential!r}",
            "Try prior.to(network_dtype=torch.bfloat16), or float32.",
        )
    return (
        f"the potential {model.potential!r} (or a NaN from the network)",
        "Before the last step a value must be finite: with hard constraints use "
        "potentials.Terminal(), else try InflatedGaussian() or a smaller strength.",
    )
