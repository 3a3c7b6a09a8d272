r"""Particle Gibbs: Markov chains over whole paths, right for any number of particles N >= 2.

A sweep is conditional SMC. Slot 0 follows the path x'_0, ..., x'_K of the sweep before, the other
particles run as always, and a new path is drawn with the final weights. Where a system resamples, its
ancestors are drawn given that slot 0 descends from the path (`Resampler.conditional`); where it does
not, weights are carried. This leaves the law of paths invariant:

    gamma(x_0, ..., x_K) = M_0 G_0(x_0) prod_k M_k G_k(x_{k+1} | x_k)

With few particles the noisy end of the path rarely changes. Ancestor sampling gives the rest of the
path another past, chosen among the particles with their weights W of before the resampling:

    P(i) proportional to W_k^i M_k G_k(x'_{k+1} | x_k^i)

It happens where a system resamples and only there: elsewhere each particle has but one past. The other
ancestors are then drawn given that slot 0 descends from i: conditional resampling after counting the
particles from i on. Only gamma must be Markov, so that all later factors cancel. A proposal may
remember: it is no part of gamma, and the path's next weight is formed with what its new past
remembers. In high dimension the noise of a step is small against the distance of two particles, and
hardly any other past has a chance, except at the noisy end.

References: Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods" (2010); Lindsten,
Jordan, Schoen, "Particle Gibbs with ancestor sampling" (arXiv 1401.0604); Chopin, Singh, "On particle
Gibbs sampling" (arXiv 1304.1887); of diffusions, Dang et al., PG-DLM (arXiv 2507.08390).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smcguide import exactness, weights
from smcguide.along import Along, Conditional, Path, check_conditional
from smcguide.chains import Chains
from smcguide.engine import iterate
from smcguide.errors import InvalidInput, check_counts
from smcguide.feynman_kac import FeynmanKac
from smcguide.genealogy import Genealogy
from smcguide.progress import Progress
from smcguide.records import StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.systematic import Systematic
from smcguide.runs import check_run, check_selection
from smcguide.triggers import Trigger, ess_below


@dataclass(frozen=True)
class Sweep:
    """What all sweeps of a sampler have in common.

    Arguments:
        model: anything that can run along a path.
        shape: (S, N).
        resampler, trigger: of the selection.
        ancestor_sampling: whether the path may change its past at a resampling.
        watch: called with each StepInfo.
    """

    model: FeynmanKac
    shape: tuple[int, int]
    resampler: Resampler
    trigger: Trigger
    ancestor_sampling: bool = False
    watch: Callable[[StepInfo], None] = lambda info: None

    def __call__(self, path: Path | None, seed: tuple[int, ...]) -> tuple[Path, Tensor, Tensor]:
        """A new path given the old one, or from nothing.

        Arguments:
            path: "x" (S, K + 1, *E) and the model's `path_fields`; None for a run without a path.
            seed: whole numbers.

        Returns:
            The new path; where it is not the old one any more, (S, K + 1) bool; log Z of the run (S,).
        """
        model, resampler, (S, N) = self.model, self.resampler, self.shape
        if path is not None:
            along = Along(self.model, path)
            model, resampler = along, Conditional(resampler, along, self.ancestor_sampling)
        of_run, of_path = np.random.SeedSequence(seed).generate_state(2, np.uint64) >> np.uint64(1)
        steps = iterate(
            model, num_particles=N, num_systems=S, resampler=resampler, trigger=self.trigger,
            seed=int(of_run), record=("ancestors",),
        )  # fmt: skip
        genealogy = Genealogy()
        for particles, info in steps:
            fields = {name: particles.carry[name] for name in self.model.path_fields}
            own = torch.zeros_like(particles.eve, dtype=torch.bool)
            own[:, 0] = path is not None
            ancestors = info.recorded["ancestors"] if info.step else None
            genealogy.insert({"x": particles.x, **fields, "kept": own}, ancestors)
            self.watch(info)
        generator = torch.Generator(particles.x.device).manual_seed(int(of_path))
        u = torch.rand(S, 1, generator=generator, dtype=torch.float64, device=generator.device)
        new = genealogy.path_of(weights.inverse_cdf(particles.log_w, u)[:, 0])
        return new, ~new.pop("kept"), info.log_evidence


def particle_gibbs(
    model: FeynmanKac,
    sweeps: int,
    num_particles: int,
    *,
    num_chains: int | None = None,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    ancestor_sampling: bool = False,
    burn_in: int = 0,
    seed: int = 0,
    progress: bool | str | Callable[[StepInfo], None] = "auto",
    keep_paths: bool = False,
) -> Chains:
    """Sample by particle Gibbs. The first path of a chain comes from an ordinary run.

    Arguments:
        model: a `GuidedDiffusion`, or any Feynman-Kac model that can run along a path.
        sweeps: number of paths to keep of each chain.
        num_particles: N per chain, at least 2.
        num_chains: S independent chains, side by side. None for 1, or for a model with one observation
            per system for one chain each: those chains have different targets and no R-hat.
        resampler: Systematic() (default) or Multinomial().
        trigger: when to resample, default ess_below(0.5).
        ancestor_sampling: let the path change its past at each resampling, at no network call. For
            Markov targets: no path-dependent potentials, no kernels with memory.
        burn_in: paths to drop first.
        seed: of all randomness.
        progress: True, False, "auto" (a bar on a terminal only), or a function called with each StepInfo.
        keep_paths: keep all states of the paths, not the last ones only.

    Returns:
        The chains, exact as their number of sweeps grows, whatever N.

    Raises:
        InvalidInput: before any network call, for models with moves, starts or adaptive values, and for
            what `along.check_conditional` says.
        DegenerateWeights: as `engine.run`.
    """
    resampler, trigger = resampler or Systematic(), trigger or ess_below(0.5)
    check_selection(resampler, trigger)
    check_counts(
        {"sweeps": (sweeps, 1), "burn_in": (burn_in, 0), "num_particles": (num_particles, 2)}
    )
    S = _num_chains(model, num_chains)
    check_run(model, num_particles, S, (), progress, seed)
    check_conditional(model, resampler, num_particles, ancestor_sampling)
    before = dict(getattr(model, "evaluations", {}))
    path, kept = None, []
    with Progress(progress, (burn_in + sweeps) * model.num_steps) as bar:
        sweep = Sweep(model, (S, num_particles), resampler, trigger, ancestor_sampling, bar.update)
        for n in range(burn_in + sweeps):
            path, changed, log_z = sweep(path, (seed, n))
            if n >= burn_in:
                kept.append((path["x"] if keep_paths else path["x"][:, -1], changed, log_z))
    x, changed, log_z = (torch.stack(a, 1) for a in zip(*kept, strict=True))
    after = getattr(model, "evaluations", {})
    limit = [exactness.LIMIT, model.exactness, exactness.label([resampler, trigger])]
    settings = {
        "num_particles": num_particles, "burn_in": burn_in, "seed": seed,
        "ancestor_sampling": ancestor_sampling, "resampler": repr(resampler),
        "trigger": repr(trigger), **{k: repr(v) for k, v in getattr(model, "parts", {}).items()},
        "exactness": exactness.worst(limit),
    }  # fmt: skip
    return Chains(
        x[:, :, -1] if keep_paths else x, log_z, changed,
        torch.tensor([model.time(k) for k in range(model.num_steps + 1)], dtype=torch.float64),
        x if keep_paths else None,
        {name: after[name] - before.get(name, 0) for name in after},
        settings, are_replicates=model.num_systems is None,
    )  # fmt: skip


def _num_chains(model: FeynmanKac, num_chains: int | None) -> int:
    own = model.num_systems
    check_counts({"num_chains": (own or 1 if num_chains is None else num_chains, 1)})
    if own is not None and num_chains not in (None, own):
        raise InvalidInput(
            f"num_chains={num_chains}, but the model has one observation for each of {own} systems, and "
            "one chain for each. Leave num_chains out; for several chains of one observation repeat it."
        )
    return own or num_chains or 1
