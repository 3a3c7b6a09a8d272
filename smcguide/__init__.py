from smcguide import costs, grids, kernels, potentials, priors, proposals, resamplers, schedules, triggers
from smcguide.engine import iterate, run
from smcguide.feynman_kac import FeynmanKac, Propagated
from smcguide.guided import GuidedDiffusion
from smcguide.posterior import Posterior
