"""A velocity of zero in pipelines that divide by the norm or the deviation of the guided prediction."""

from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline
from families import BATCHED
from families_editing import EDITING
from families_spoken import SPOKEN
from families_two_calls import TWO_CALLS
from tiny import FAMILIES, sd3
from tiny_family import Family, seeded
from tiny_inputs import picture
from tiny_slots import embeddings, hunyuan_image

from diffguide.guidance import ClassifierFreeZeroStarGuidance
from diffguide.pipelines import guide

pytestmark = pytest.mark.filterwarnings("ignore")

EVERY = {family.name: family for family in (*FAMILIES, *BATCHED, *EDITING, *SPOKEN, *TWO_CALLS)}
RESCALED = ("ltx", "easyanimate")
DIVIDING = [EVERY[name] for name in ("qwen", "qwen-edit", "lumina2", "nucleus", *RESCALED)]
STAR = ClassifierFreeZeroStarGuidance(4.0)


@pytest.mark.parametrize("family", DIVIDING, ids=str)
def test_pictures_are_finite(family: Family) -> None:
    pipe: Any = family.build()
    options = {"guidance_rescale": 0.7} if family.name in RESCALED else {}
    with guide(pipe, STAR) as guided:
        assert torch.as_tensor(family.run(guided, **options)).isfinite().all()
        assert guided.trace[0].decision[0] == "zeroed"


def test_image_to_image_loses_no_step() -> None:
    """Zeroed, its first step would leave in the latents the noise that the scheduler takes off."""
    pipe = seeded(lambda: sd3(StableDiffusion3Img2ImgPipeline))
    for strength, first in ((0.3, "guided"), (1.0, "zeroed")):
        with guide(pipe, STAR) as guided:
            guided("red apple", image=picture(1), strength=strength, num_inference_steps=10, output_type="latent")
            decisions = [record.decision[0] for record in guided.trace]
        assert decisions == [first, *["guided"] * (len(decisions) - 1)]


def test_in_the_place_of_a_guider() -> None:
    pipe = seeded(hunyuan_image)
    texts = embeddings(prompt_embeds=(1, 4, 16), prompt_embeds_mask=(1, 4), prompt_embeds_2=(1, 4, 16))
    texts |= embeddings(prompt_embeds_mask_2=(1, 4))
    with guide(pipe, STAR) as guided:
        size = {"height": 16, "width": 16, "num_inference_steps": 3, "output_type": "latent"}
        assert torch.as_tensor(guided(**texts, **size)[0]).isfinite().all()
