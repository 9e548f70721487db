"""What the evidence is made of: each arm's images measured, and the differences to the first arm with intervals."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffguide.eval import clipping, load_extractor, precision_recall, saturation
from diffguide.eval.against import measure_reference, open_reference
from diffguide.eval.bootstrap import Bootstrap
from diffguide.eval.leave_one_out import FrechetReference, leave_one_out, pseudo_values
from diffguide.eval.networks import Networks
from diffguide.eval.pixels import luma

COLUMNS = {
    "reward": ("optimised reward", 4),
    "judge": ("judge's cosine", 4),
    "fd": ("FD", 2),
    "high_frequency": ("high frequencies", 4),
    "saturation": ("saturation", 4),
    "clipping": ("clipping", 4),
}


@dataclass
class Measured:
    """value, and per image what fluctuates as it does: (n,), whose mean a bootstrap resamples."""

    value: float
    per_image: np.ndarray


class Measure:
    """Measures n images of n prompts.

    Args:
        reward, judge: rewards of images and prompts.
        extractor: a network of `load_extractor`, for the Frechet distance, precision and recall.
        reference: an embedded set or images.
        prompts: of the images.
    """

    def __init__(self, reward, judge, extractor: str, reference: str, prompts: list[str]):
        self.reward, self.judge, self.prompts = reward, judge, prompts
        networks = Networks(extractor=extractor)
        self.extractor = load_extractor(extractor)
        name = networks.of("kid")
        side = measure_reference(open_reference(reference), ["kid"], networks, {name: self.extractor})[name]
        self.features = side.features
        self.frechet = FrechetReference(side.statistics.mu, side.statistics.sigma)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Measured | float]:
        """images: (n, 3, H, W) in [0, 1]. Precision and recall are numbers alone."""
        features = torch.cat([self.extractor(part).cpu().double() for part in images.split(32)])
        value, left_out = leave_one_out(features, self.frechet)
        per_image = {
            "reward": self.reward(images, self.prompts),
            "judge": self.judge(images, self.prompts),
            "high_frequency": high_frequency(images),
            "saturation": saturation(images),
            "clipping": clipping(images),
        }
        found: dict[str, Measured | float] = {
            name: Measured(float(values.double().mean()), values.double().numpy()) for name, values in per_image.items()
        }
        found["fd"] = Measured(value, pseudo_values(value, left_out).numpy())
        found["precision"], found["recall"] = precision_recall(features, self.features)
        return found


def high_frequency(images: Tensor) -> Tensor:
    """(n, 3, H, W) -> (n,): the share of the luma's spectral energy, its mean left out, beyond half of Nyquist's."""
    grey = luma(images)
    power = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square()
    rows, columns = (torch.fft.fftfreq(side, device=images.device) for side in grey.shape[1:])
    beyond = (rows[:, None].square() + columns[None].square()).sqrt() > 0.25
    return power[:, beyond].sum(1) / power.sum((1, 2)).clamp(min=1e-12)


@dataclass
class Rows:
    """The table as markdown, and as values for JSON."""

    markdown: str
    values: dict


def table(results: dict[str, dict], seconds: dict[str, float]) -> Rows:
    """A row an arm; in brackets the 95 % interval of the difference to the first arm."""
    first = next(iter(results.values()))
    bootstrap = Bootstrap(len(first["reward"].per_image))
    heads = [label for label, _ in COLUMNS.values()]
    lines = [
        f"| | {' | '.join(heads)} | precision | recall | s / image |",
        f"|---|{'---|' * (len(heads) + 3)}",
    ]
    values = {}
    for name, found in results.items():
        cells, values[name] = [], {}
        for column, (_, digits) in COLUMNS.items():
            here, there = found[column], first[column]
            change = bootstrap.interval(here.value - there.value, here.per_image - there.per_image)
            values[name][column] = {"value": here.value, "difference": [change.value, change.low, change.high]}
            interval = f" [{change.low:+.{digits}f}, {change.high:+.{digits}f}]" if found is not first else ""
            cells.append(f"{here.value:.{digits}f}{interval}")
        values[name] |= {column: found[column] for column in ("precision", "recall")} | {"seconds": seconds[name]}
        cells += [f"{found[column]:.3f}" for column in ("precision", "recall")] + [f"{seconds[name]:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return Rows("\n".join(lines) + "\n", values)
