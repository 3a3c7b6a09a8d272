"""Words that several checks share: what to change, and in which systems.

Advice is for the run at hand: a part that is already there is not recommended.
"""

from torch import Tensor

from smcguide.posterior import Posterior

REPLICATES = "num_systems=4"
SOFTEN = (
    "A soft cost that grows with the distance from what is allowed, which values and gradients can "
    "follow. Or more particles (num_particles)."
)


def part(posterior: Posterior, name: str) -> str:
    """The class of a part of the run, "" where there is none."""
    return str(posterior.settings.get(name, "")).split("(")[0]


def steer(posterior: Posterior) -> str:
    """How to lose less weight on the way."""
    if "potential" not in posterior.settings:
        return "More particles. Weights that come in over more steps."
    if bool(posterior.log_w.isneginf().any()):
        return SOFTEN
    advice, proposal = [], str(posterior.settings["proposal"])
    if part(posterior, "potential") in ("Terminal", "Tweedie"):
        advice.append(
            "Leave `potential` out: potentials.InflatedGaussian() for Gaussian likelihoods, "
            "potentials.KrylovLaplace() for other costs with a gradient"
        )
    if part(posterior, "proposal") == "Bootstrap":
        advice.append("Guide the particles, proposals.Gradient(trust=2.0)")
    elif "trust=inf" in proposal:
        advice.append(
            "Give a trust region, proposals.Gradient(trust=2.0) or proposals.DTM(trust=2.0)"
        )
    if part(posterior, "trigger") in ("never", "always"):
        advice.append("Resample when it pays, triggers.ess_below(0.5)")
    if part(posterior, "resampler") == "Multinomial":
        advice.append("Resample with less noise, resamplers.Systematic()")
    if not advice:
        advice.append(
            "Twice as many steps (num_steps) and particles, or a value that comes in gradually "
            "(potentials.Tempered with potentials.Adaptive())"
        )
        advice.append(
            "If the data lie beyond what the prior knows, look at the noise level of the cost"
        )
    return ". ".join(advice) + "."


def particles(num: int) -> str:
    """ "1 particle", "20 particles"."""
    return f"{num} particle" + ("" if num == 1 else "s")


def in_systems(bad: Tensor) -> str:
    """In how many systems it is so, from a mask (S,); "" where there is one."""
    if len(bad) == 1:
        return ""
    number = "each" if bool(bad.all()) else str(int(bad.sum()))
    return f" in {number} of {len(bad)} systems"
