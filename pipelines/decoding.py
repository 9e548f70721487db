"""From x0 to the images that rewards look at, with gradients: a pipeline's own last lines, without `no_grad`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .frames import variables_of
from .freezing import checkpoint, freeze

PACKED = ["latents", "height", "width", "vae_scale_factor"]
"""The arguments of `_unpack_latents` in all pipelines whose latents are tokens of 2 x 2 pixels each."""


class Decoder:
    """x0 (B, ...), shaped as the model input, to images (B, 3, H, W), float32 in [0, 1], for one call of a pipeline.

    Values outside [0, 1] are clipped, as in the picture that comes out, but their gradient is not: a reward can pull a
    saturated pixel back. Parameters take no gradients, and nothing of the pipeline is changed once it is closed.

    pipe: the pipeline, inside its call. preview: an AutoencoderTiny for the same latents, on the pipeline's device,
    that stands in for its decoder: far less memory and time, at a coarser image. checkpointing: whether activations of
    the decoder are computed again in the backward pass rather than kept; where they all are in one block, as in an
    AutoencoderTiny, that would save nothing and is not done.
    """

    def __init__(self, pipe: Any, preview: Any = None, checkpointing: bool = True):
        self.pipe, self.preview, self.checkpointing = pipe, preview, checkpointing
        self._vae: Any = None
        self._undo: list[Callable[[], None]] = []

    def takes(self, sample: Tensor) -> bool:
        """Whether what this model input stands for is one image per row that can be decoded."""
        if not hasattr(self.pipe, "vae"):
            return _is_pixels(self.pipe, sample)
        vae = self.pipe.vae
        if getattr(vae, "decoder", None) is None or vae.config.get("out_channels", 3) != 3:
            return False
        if sample.ndim == 3:
            return _unpacks(self.pipe) or _is_normalised(self.pipe)
        if sample.ndim == 5:  # frames; what Cosmos makes of its latents is another scale
            return sample.shape[2] == 1 and "sigma_data" not in self.pipe.scheduler.config
        return sample.ndim == 4 and not _in_frames(vae) and not hasattr(self.pipe, "_unpatchify_latents")

    def __call__(self, x0: Tensor) -> Tensor:
        """The images."""
        if not hasattr(self.pipe, "vae"):
            return _as_image(x0)
        vae = self._prepared()
        latents = self._unpacked(x0)
        if latents.ndim == 4 and _in_frames(vae):
            latents = latents.unsqueeze(2)
        elif latents.ndim == 5 and not _in_frames(vae):
            latents = latents.squeeze(2)
        image = vae.decode(self._unscaled(latents, vae).to(vae.dtype), return_dict=False)[0]
        return _as_image(image[:, :, 0] if image.ndim == 5 else image)

    def close(self) -> None:
        """Give the decoder back as it was."""
        while self._undo:
            self._undo.pop()()
        self._vae = None

    def _prepared(self) -> Any:
        if self._vae is None:
            vae = self.preview or self.pipe.vae
            if hasattr(self.pipe, "upcast_vae") and vae.dtype == torch.float16 and vae.config.get("force_upcast"):
                # SDXL's overflows in float16. A copy: tensors that wait for a backward pass must stay as they are.
                vae = self._in_float32(vae)
            self._undo.append(_alone(vae))
            self._undo.append(freeze(vae))
            if self.checkpointing and type(vae).__name__ != "AutoencoderTiny" and vae._supports_gradient_checkpointing:
                self._undo.append(checkpoint(vae))
            self._vae = vae
        return self._vae

    def _in_float32(self, vae: Any) -> Any:
        """A copy; not of the hook of CPU offload, which holds the other parts of the pipeline."""
        hook = vars(vae).get("_hf_hook")
        if hook is None or any(parameter.is_meta for parameter in vae.parameters()):  # one at a time, by its own hooks
            return copy.deepcopy(vae).float()
        twin = copy.deepcopy(vae, {id(hook): None})
        del twin._hf_hook
        return twin.float().to(self.pipe._execution_device)

    def _unpacked(self, x0: Tensor) -> Tensor:
        """Tokens as a picture of latents; anything else as it is."""
        if x0.ndim != 3:
            return x0
        sizes = variables_of(self.pipe)
        height, width, scale = int(sizes["height"]), int(sizes["width"]), self.pipe.vae_scale_factor
        if _unpacks(self.pipe):
            return self.pipe._unpack_latents(x0, height, width, scale)
        grid = x0.transpose(1, 2).unflatten(2, (height // (2 * scale), width // (2 * scale)))
        norm = self.pipe.vae.bn  # Flux 2 normalises its latents as they are packed
        mean, variance = (each.view(1, -1, 1, 1).to(x0) for each in (norm.running_mean, norm.running_var))
        return self.pipe._unpatchify_latents(grid * (variance + self.pipe.vae.config.batch_norm_eps).sqrt() + mean)

    def _unscaled(self, latents: Tensor, vae: Any) -> Tensor:
        """Latents as the decoder takes them."""
        config = vae.config
        mean, std, scale = config.get("latents_mean"), config.get("latents_std"), config.get("scaling_factor") or 1.0
        if mean is None or std is None or _is_normalised(self.pipe):
            return latents / scale + (config.get("shift_factor") or 0.0)
        mean, std = (latents.new_tensor(each).view(-1, *[1] * (latents.ndim - 2)) for each in (mean, std))
        return latents * std / scale + mean


def _alone(vae: Any) -> Callable[[], None]:
    """Keep CPU offload from sending the denoiser away when the decoder comes; what undoes that.

    The denoiser may have its backward pass before it, and is needed again in a moment.
    """
    hook = vars(vae).get("_hf_hook")
    if getattr(hook, "prev_module_hook", None) is None:
        return lambda: None
    before, hook.prev_module_hook = hook.prev_module_hook, None
    return lambda: setattr(hook, "prev_module_hook", before)


def _as_image(image: Tensor) -> Tensor:
    image = image.float() / 2 + 0.5
    return image + (image.clamp(0, 1) - image).detach()


def _is_pixels(pipe: Any, sample: Tensor) -> bool:
    """Whether the pipeline samples pixels: nothing in it decodes. (Super-resolution sees the small image as well.)"""
    decodes = any(isinstance(part, nn.Module) and hasattr(part, "decode") for part in pipe.components.values())
    return not decodes and sample.ndim == 4 and sample.shape[1] in (3, 6)


def _unpacks(pipe: Any) -> bool:
    native = getattr(pipe, "_unpack_latents", None)
    one_way = not hasattr(pipe, "_unpack_latents_no_patch")  # Bria Fibo has two kinds of tokens
    return native is not None and one_way and list(inspect.signature(native).parameters) == PACKED


def _is_normalised(pipe: Any) -> bool:
    """Whether latents are tokens as in Flux 2, which has its statistics in a batch norm."""
    return hasattr(pipe, "_unpack_latents_with_ids")


def _in_frames(vae: Any) -> bool:
    """Whether the decoder is one of videos, for which an image is one frame."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((part for part in vae.decoder.modules() if isinstance(part, kinds)), None)
    return isinstance(first, nn.Conv3d)
