"""The latent proxy reward model of RG-LCD: a CLIP that reads latents, taught online by the reward it stands for.

Li et al., arXiv 2403.11027, Section 4. It is first trained on latents and captions like any CLIP; then, beside the
student, to order {student, target, real} in pairs as the expert does. The student sees it frozen, and no gradient of
the expert's is needed.
"""

from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from data import Captioned
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from diffguide.guidance import ClipReward


class LatentReward(nn.Module):
    """The cosine of latents (B, C, h, w) and prompts.

    Args:
        text_model: the teacher's text encoder, whose weights are copied and frozen.
        tokenizer: its tokenizer.
        channels, side: of the latents. patch: side of the image tower's patches.
    """

    def __init__(self, text_model: nn.Module, tokenizer, channels: int, side: int, patch: int, width: int = 128):
        super().__init__()
        text = text_model.config.to_dict()
        vision = {
            "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 4,
            "num_attention_heads": width // 32, "num_channels": channels, "image_size": side, "patch_size": patch,
            "hidden_act": "gelu",
        }  # fmt: skip
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=text["hidden_size"]))
        self.clip.text_model.load_state_dict(text_model.state_dict())
        self.clip.text_model.requires_grad_(False).eval()
        self.reward = ClipReward(self.clip, tokenizer, space="latent", trainable=True)

    def forward(self, latents: Tensor, prompts: list[str]) -> Tensor:
        """(B,) cosines."""
        return self.reward.score(latents, prompts)

    def save(self, folder: Path) -> None:
        """As a folder that `ClipReward.from_pretrained` reads as a reward of latents."""
        self.reward.save_pretrained(folder)

    def contrast(self, latents: Tensor, prompts: list[str]) -> Tensor:
        """CLIP's symmetric cross-entropy; equal prompts count as one."""
        text, image = self.reward.embed_texts(prompts), self.reward.embed_images(latents)
        logits = self.clip.logit_scale.clamp(max=4.6).exp() * text @ image.T
        same = torch.tensor([[a == b for b in prompts] for a in prompts], device=latents.device).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def imitate(self, expert: dict[str, Tensor], own: dict[str, Tensor], temperature: float) -> Tensor:
        """KL(expert || own) of which one of a pair is better, the mean over all pairs and prompts."""
        losses = []
        for a, b in combinations(expert, 2):
            target = torch.stack([expert[a], expert[b]], 1).div(temperature).log_softmax(1)
            guess = torch.stack([own[a], own[b]], 1).div(temperature).log_softmax(1)
            losses.append(F.kl_div(guess, target, log_target=True, reduction="batchmean"))
        return torch.stack(losses).mean()


def pretrain(model: LatentReward, data: Captioned, steps: int, size: int, rate: float, seed: int, log) -> None:
    """Contrastive training on latents with a little noise, and their captions."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
    device = next(model.parameters()).device
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50, (steps - step) / max(steps / 4, 1))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        latents, _, prompts = data.batch(size, generator, device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        loss = model.contrast(latents + 0.1 * noise, prompts)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            log(f"latent reward {step + 1}/{steps}  contrast {loss.item():.3f}")
