"""A trace as a figure. Needs matplotlib, the extra `plot`; nothing else in the package does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .trace import Trace

LINES = 8
"""Up to so many images have a line each."""

# Each panel: its axis label, and the measures it shows with their line styles and names.
PANELS = {
    "cosine of cond and uncond": {"cosine": ("-", "")},
    "ratio |cond - uncond| / |uncond|": {"ratio": ("-", "")},
    "L2 norm, in units of the prediction": {
        "difference_norm": ("-", "cond - uncond"),
        "update_norm": ("--", "guided - cond"),
    },
    "effective guidance scale": {"effective_scale": ("-", "")},
}


def plot_trace(trace: Trace) -> Figure:
    """The figure of `Trace.plot`."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("trace.plot() needs matplotlib: pip install 'diffguide[plot]'") from error
    if not trace:
        raise ValueError("the trace is empty: it is that of the last call of the guided pipeline, so call it first")
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    figure.suptitle(trace.rule)
    steps = list(range(len(trace)))
    for axes, (label, measures) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items()):
        for name, (style, meaning) in measures.items():
            _draw(axes, steps, torch.stack([getattr(record, name) for record in trace]), style, meaning)
        _shade(axes, trace)
        axes.set_ylabel(label)
        axes.set_xlabel("step (guided evaluation)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small")
    return figure


def _draw(axes: Any, steps: list[int], values: Tensor, style: str, meaning: str) -> None:
    """values: (steps, B). Colours go by image, so that both norms of an image share theirs."""
    samples = values.shape[1]
    if samples <= LINES:
        for k in range(samples):
            name = ", ".join(filter(None, [meaning, f"image {k}" if samples > 1 else ""]))
            axes.plot(steps, values[:, k].tolist(), style, marker=".", color=f"C{k}", label=name or None)
        return
    (line,) = axes.plot(steps, values.nanmean(1).tolist(), style, marker=".", label=f"{meaning} mean".strip())
    low, high = (values.nanquantile(share, dim=1).tolist() for share in (0.1, 0.9))
    axes.fill_between(steps, low, high, alpha=0.2, color=line.get_color(), label=f"10 % to 90 % of {samples} images")


def _shade(axes: Any, trace: Trace) -> None:
    """Grey where the unconditional evaluation was left out, so that there is nothing to measure."""
    label = "without unconditional prediction"
    for step, record in enumerate(trace):
        if record.evaluations == 1 or record.cosine.isnan().all():
            axes.axvspan(step - 0.5, step + 0.5, color="0.9", linewidth=0, zorder=0, label=label)
            label = "_" + label
