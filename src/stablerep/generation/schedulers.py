"""The samplers by name, and which of them fits a teacher's noise schedule."""

import inspect
from typing import Any

import diffusers

from stablerep.errors import UserError
from stablerep.generation.settings import PUBLISHED_SCHEDULER, SchedulerName

SCHEDULERS: dict[SchedulerName, str | None] = {
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "teacher": None,
}

_FLOW_EULER = "FlowMatchEulerDiscreteScheduler"

# Stable Diffusion's own choices, for teachers whose configuration does not say: by default the classes clip to [-1, 1],
# which is meant for pixels, and PNDM begins with Runge-Kutta steps, of which it needs at least four.
_FOR_LATENTS = {"clip_sample": False, "skip_prk_steps": True}


def choose_scheduler(pipeline: Any, asked: SchedulerName | None) -> Any:
    """The sampler: the one asked for; or, if none was, the published one where it fits, else the teacher's own."""
    own = pipeline.scheduler
    name = asked or (PUBLISHED_SCHEDULER if _fits(PUBLISHED_SCHEDULER, own) else "teacher")
    class_name = SCHEDULERS[name]
    if class_name is None or class_name == type(own).__name__:
        return own
    if not _fits(name, own):
        fitting = ", ".join(option for option in SCHEDULERS if _fits(option, own))
        raise UserError(
            f"scheduler {name!r} does not fit the teacher's {type(own).__name__}; fitting: {fitting}"
        )
    if name == "euler" and _is_flow(own):
        return _euler_of_flow(own)
    kind = getattr(diffusers, class_name)
    takes = inspect.signature(kind).parameters
    options = {
        name: value for name, value in _FOR_LATENTS.items() if name in takes and name not in own.config
    }
    return kind.from_config(own.config, **(options if hasattr(pipeline, "vae") else {}))


def _euler_of_flow(own: Any) -> Any:
    """Euler's method for a flow, where "EulerDiscreteScheduler", which knows diffusion only, does not fit.

    A flow has alpha = 1 - sigma, with which the first order of DPM-Solver++ (Lu et al. 2022, equation 9), x' = sigma' /
    sigma x + (alpha' - sigma' alpha / sigma) x0, is a step of Euler's, x + (sigma' - sigma) v.
    """
    if type(own).__name__ == _FLOW_EULER:
        return own
    first_order = {"solver_order": 1, "algorithm_type": "dpmsolver++"}
    return diffusers.DPMSolverMultistepScheduler.from_config(own.config, **first_order)


def _fits(name: SchedulerName, own: Any) -> bool:
    class_name = SCHEDULERS[name]
    if class_name is None or class_name == type(own).__name__:
        return True
    kind = getattr(diffusers, class_name)
    if name == "euler" and _is_flow(own):
        return type(own).__name__ == _FLOW_EULER or diffusers.DPMSolverMultistepScheduler in own.compatibles
    return kind in own.compatibles and (
        not _is_flow(own) or "use_flow_sigmas" in inspect.signature(kind).parameters
    )


def _is_flow(own: Any) -> bool:
    """Whether noise is mixed in along straight lines, as in rectified flow."""
    config = own.config
    by_option = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(by_option) or type(own).__name__.startswith("FlowMatch")
