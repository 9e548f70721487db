"""One UNet as teacher, student, moving target and reference; low-rank updates, or a copy of all weights."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from diffguide.pipelines.scale_input import GUIDANCE_EMBEDDING, with_scale_input

UPDATE = "pytorch_lora_weights.safetensors"


class Student(nn.Module):
    """What is trained. Its `forward` is a prediction of the student, of its moving average or of a frozen reference.

    Args:
        teacher: the UNet that is distilled; it stays as it is.
        rank: of an update B A to every linear and convolutional weight (LoRA, alpha = rank); 0: all weights are
            trained.
    """

    def __init__(self, teacher: UNet2DConditionModel, rank: int):
        super().__init__()
        try:
            unet = with_scale_input(teacher)  # at first the student is the teacher, at any scale
        except ValueError as error:
            raise SystemExit(f"this teacher cannot be distilled here: {error}") from error
        object.__setattr__(self, "unet", unet.eval().requires_grad_(False))  # no part of what is saved or wrapped
        self.rank = rank
        self.names = [name for name, _ in unet.named_parameters()]
        if rank:
            kinds = (nn.Linear, nn.Conv2d)
            self.names = [f"{name}.weight" for name, module in unet.named_modules() if isinstance(module, kinds)]
        base = dict(unet.named_parameters())
        self.trained = nn.ParameterList(part for name in self.names for part in self._begin(base[name]))
        self.moving = [parameter.detach().clone() for parameter in self.trained]
        self.reference: list[Tensor] = []

    def _begin(self, weight: Tensor) -> list[nn.Parameter]:
        if not self.rank:
            return [nn.Parameter(weight.detach().clone())]
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(self.rank, rows, columns)
        down = torch.randn(rank, columns) / columns**0.5
        return [nn.Parameter(down), nn.Parameter(torch.zeros(rows, rank))]

    def weights(self, parts: list[Tensor]) -> dict[str, Tensor]:
        """The weights of the UNet that `parts` (the trained ones, or their moving average) stand for."""
        if not self.rank:
            return dict(zip(self.names, parts))
        base = dict(self.unet.named_parameters())
        pairs = zip(self.names, parts[::2], parts[1::2])
        return {name: base[name] + (up @ down).view_as(base[name]) for name, down, up in pairs}

    def forward(self, z: Tensor, timestep: Tensor, text: Tensor, scale: Tensor, role: str = "student") -> Tensor:
        """z: (B, C, H, W); timestep: (B,); text: (B, L, D); scale: (B,) of the guidance, diffusers' convention.

        role: "student", "target" (the moving average) or "reference" (what `freeze_reference` kept).
        """
        parts = {"student": list(self.trained), "target": self.moving, "reference": self.reference}[role]
        # as LatentConsistencyModelPipeline has it, on the device of the scale
        kwargs = {"timestep_cond": get_timestep_embedding(1000 * (scale - 1), GUIDANCE_EMBEDDING), "return_dict": False}
        return functional_call(self.unet, self.weights(parts), (z, timestep, text), kwargs)[0]

    @torch.no_grad()
    def teach(self, z: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """The teacher's prediction."""
        return self.unet(z, timestep, text, return_dict=False)[0]

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """One step of the moving average."""
        torch._foreach_lerp_(self.moving, list(self.trained), 1 - decay)

    def move_to(self, device: torch.device) -> "Student":
        """Everything to `device`, the frozen UNet and the moving average as well."""
        self.unet.to(device)
        self.moving = [part.to(device) for part in self.moving]
        return self.to(device)

    def state_dict_of_average(self) -> dict[str, Tensor]:
        """The moving average, for the checkpoint."""
        return {str(i): part for i, part in enumerate(self.moving)}

    def load_average(self, state: dict[str, Tensor]) -> None:
        """What `state_dict_of_average` gave."""
        for i, part in enumerate(self.moving):
            part.copy_(state[str(i)])

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Go on from a student that `save` wrote, of the same rank or less: what a smaller update lacks begins at 0."""
        file = folder / UPDATE if self.rank else folder / "unet"
        if not file.exists():
            raise SystemExit(f"there is no student of rank {self.rank} in {folder}: {file.name} is missing")
        if self.rank:
            saved = load_file(file)
            keys = [f"unet.{name.removesuffix('.weight')}.lora_{part}.weight" for name in self.names for part in "AB"]
        else:
            saved, keys = UNet2DConditionModel.from_pretrained(file).state_dict(), self.names
        if saved.keys() != set(keys):
            raise SystemExit(f"{folder} holds a student of another network than the teacher's")
        for i, (key, part, moving) in enumerate(zip(keys, self.trained, self.moving)):
            value = saved[key].flatten(1) if self.rank else saved[key]
            along = i % 2 if self.rank else None  # A is (rank, in), B (out, rank)
            if any(n != size for j, (n, size) in enumerate(zip(value.shape, part.shape)) if j != along):
                raise SystemExit(f"{folder} holds a student of another network than the teacher's")
            if value.numel() > part.numel():
                raise SystemExit(f"{folder} holds a student of another rank: give it as --rank")
            part[tuple(map(slice, value.shape))] = value
            moving.copy_(part)

    def freeze_reference(self) -> None:
        """Keep the student as it is now, as what "reference" means in `forward`."""
        self.reference = [parameter.detach().clone() for parameter in self.trained]

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """The moving average as `pytorch_lora_weights.safetensors`, which diffusers loads, or as a whole `unet`."""
        if not self.rank:
            merged = UNet2DConditionModel.from_config(self.unet.config)
            merged.load_state_dict(self.unet.state_dict() | self.weights(self.moving))
            merged.save_pretrained(folder / "unet")
            return
        shapes = {name: parameter.shape for name, parameter in self.unet.named_parameters()}
        state = {}
        for name, down, up in zip(self.names, self.moving[::2], self.moving[1::2]):
            key, shape = f"unet.{name.removesuffix('.weight')}", shapes[name]
            state[f"{key}.lora_A.weight"] = down.view(len(down), *shape[1:]).cpu().contiguous()
            state[f"{key}.lora_B.weight"] = up.view(*up.shape, *[1] * (len(shape) - 2)).cpu().contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / UPDATE)
