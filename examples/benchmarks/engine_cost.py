"""What the engine itself costs, for evaluations.py: beside the bare pipeline, and at a step without the unconditional.

Short runs in turns, forward and backward, so that the machine's slow changes fall on all alike. Two clocks run, that of
the processor and that of the wall, and inside each run a third one stands at what is spent outside of the denoiser. The
denoiser does the same work for engine and bare pipeline, on the same rows, and varies by more than the engine costs: so
that cost is also given as the difference of what the two spend outside of it.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from saving_table import interval
from ways import native

from diffguide.guidance import AdaptiveGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide

Times = tuple[float, float]
"""Seconds by a processor's clock (the wall's, where others work as well) and by that of the wall."""


class Watch:
    """Both clocks, of a whole run, of its steps, and of the denoiser in each.

    With one thread on a CPU the first is that thread's time on the processor, to which other programs add little.
    """

    def __init__(self, denoiser: Any, device: str):
        self.denoiser, self.device = denoiser, device
        self.alone = torch.get_num_threads() == 1 and device == "cpu"
        self.inside = [0.0, 0.0]

    def now(self) -> Times:
        """Seconds, once the device has done what it was asked for."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        wall = time.perf_counter()
        return time.thread_time() if self.alone else wall, wall

    @contextlib.contextmanager
    def timing_the_denoiser(self) -> Iterator[None]:
        """Add up in `inside` what its forward takes, whatever hooks there are around it."""
        forward = self.denoiser.forward

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            output = forward(*args, **kwargs)
            self.inside = [spent + end - begin for spent, begin, end in zip(self.inside, start, self.now())]
            return output

        self.denoiser.forward = timed
        try:
            yield
        finally:
            del self.denoiser.forward


@dataclass(frozen=True)
class Run:
    """One short run. whole, outside: seconds of all of it, and of what is outside of the denoiser, each by both clocks.

    steps, denoiser, between: medians over all steps but the first, of the step, of the denoiser in it, of what is left.
    """

    whole: Times
    outside: Times
    steps: Times
    denoiser: Times
    between: Times


def short_run(watch: Watch, way: Any, run: Callable[..., Any], number: int, steps: int) -> Run:
    """The batch of that number, by the callable that `way` yields; run: as in `claims`."""
    marks: list[tuple[Times, list[float]]] = []

    def callback(pipe: Any, index: int, timestep: Any, tensors: Any) -> Any:
        marks.append((watch.now(), watch.inside))
        return tensors

    with warnings.catch_warnings(), watch.timing_the_denoiser(), way() as call:
        warnings.simplefilter("ignore")
        start, before = watch.now(), watch.inside
        run(call, number, steps, output_type="latent", callback_on_step_end=callback)
        end, after = watch.now(), watch.inside
    found: dict[str, list[float]] = {name: [] for name in ("whole", "outside", "steps", "denoiser", "between")}
    for k in (0, 1):
        steps = [late[0][k] - early[0][k] for early, late in itertools.pairwise(marks)]
        denoiser = [late[1][k] - early[1][k] for early, late in itertools.pairwise(marks)]
        found["whole"].append(end[k] - start[k])
        found["outside"].append(end[k] - start[k] - (after[k] - before[k]))
        found["steps"].append(statistics.median(steps))
        found["denoiser"].append(statistics.median(denoiser))
        found["between"].append(statistics.median(step - own for step, own in zip(steps, denoiser)))
    return Run(**{name: (values[0], values[1]) for name, values in found.items()})


def claims(pipe: Any, scale: float, run: Callable[..., Any], numbers: Iterable[int], steps: int) -> dict[str, Any]:
    """Medians over the rounds, each with its 95 % interval; `run(call, number, steps, **more)` makes a batch.

    engine_to_bare (by the processor), engine_to_bare_wall: whole runs. engine_to_bare_outside, engine_step_to_bare:
    1 + the difference of what is spent outside of the denoiser, over the bare pipeline's time, of a whole run and of a
    step. step_ms, setup_ms: the same difference of a step, and what is left of it for a call, in milliseconds.
    conditional_step_to_full, conditional_step_to_full_wall: of the engine; conditional_denoiser_to_full: of the
    denoiser alone, which has half of the rows.
    """
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    watch = Watch(denoiser, pipe.device.type)
    ways = {
        "bare": lambda: contextlib.nullcontext(native(pipe, scale)),
        "engine": lambda: guide(pipe, ClassifierFreeGuidance(scale)),
        "conditional": lambda: guide(pipe, AdaptiveGuidance(scale, -1.0)),
    }
    found: dict[str, list[float]] = {}
    pairs = 0
    for number in numbers:
        order = ways if number % 2 else reversed(ways)
        made = {name: short_run(watch, ways[name], run, number, steps) for name in order}
        pairs += 1
        for name, value in ratios(made["bare"], made["engine"], made["conditional"], steps).items():
            found.setdefault(name, []).append(value)
    return {"pairs": pairs, "short_steps": steps, **{name: interval(values) for name, values in found.items()}}


def ratios(bare: Run, engine: Run, conditional: Run, steps: int) -> dict[str, float]:
    """Those of one round; see `claims`."""
    more, more_a_step = engine.outside[0] - bare.outside[0], engine.between[0] - bare.between[0]
    return {
        "engine_to_bare": engine.whole[0] / bare.whole[0],
        "engine_to_bare_wall": engine.whole[1] / bare.whole[1],
        "engine_to_bare_outside": 1 + more / bare.whole[0],
        "engine_step_to_bare": 1 + more_a_step / bare.steps[0],
        "step_ms": 1e3 * more_a_step,
        "setup_ms": 1e3 * (more - steps * more_a_step),
        "conditional_step_to_full": conditional.steps[0] / engine.steps[0],
        "conditional_step_to_full_wall": conditional.steps[1] / engine.steps[1],
        "conditional_denoiser_to_full": conditional.denoiser[0] / engine.denoiser[0],
    }
