"""The embedded models as a user meets them: they draw what they are asked for, and guidance matters."""

import pytest
import torch

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide, load_pipeline
from diffguide.pipelines.embedded import EMBEDDED, MODELS

PROMPTS = [
    "red apple", "grinning face", "black heart", "soccer ball", "french fries", "sunflower", "tiger face", "snowman",
    "japan flag", "fire engine", "full moon", "banana", "police officer", "cactus", "blue book", "tangerine",
]  # fmt: skip
STEPS = 12


def draw(name, rule, prompts=PROMPTS):
    """(N, 3, 64, 64) in [0, 1], image k from seed k."""
    pipe = load_pipeline(name, progress_bar=False)
    with guide(pipe, rule):
        noise = [torch.Generator().manual_seed(k) for k in range(len(prompts))]
        images = pipe(prompts, num_inference_steps=STEPS, generator=noise, output_type="np").images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def clipping(images):
    """Share of channel values that are at 0 or 1: what guidance burns."""
    return ((images <= 0) | (images >= 1)).float().mean().item()


@pytest.fixture(scope="module")
def clip():
    """Images (N, 3, 64, 64) to the index of the prompt, among PROMPTS, that emoji-clip finds nearest."""
    from transformers import CLIPModel, CLIPTokenizer

    folder = MODELS / "emoji-clip"
    model, tokenizer = CLIPModel.from_pretrained(folder).float(), CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def nearest(images):
        tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt").input_ids
        text = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
        image = model.visual_projection(model.vision_model(pixel_values=images * 2 - 1).pooler_output)
        return torch.cosine_similarity(image[:, None], text[None], dim=-1).argmax(1)

    return nearest


@pytest.mark.parametrize("name", ["emoji-sd", "emoji-flow"])
def test_draws_what_it_is_asked_for(name, clip):
    found = clip(draw(name, ClassifierFreeGuidance(EMBEDDED[name].guidance_scale)))
    assert (found == torch.arange(len(PROMPTS))).float().mean() >= 0.75


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_distilled_model_draws_it_in_few_evaluations(steps, clip):
    pipe, row = load_pipeline("emoji-lcm", progress_bar=False), EMBEDDED["emoji-lcm"]
    evaluations = []
    hook = pipe.unet.register_forward_hook(lambda *call: evaluations.append(len(call[1][0])))
    noise = [torch.Generator().manual_seed(k) for k in range(len(PROMPTS))]
    options = {"num_inference_steps": steps, "guidance_scale": row.guidance_scale, "output_type": "pt"}
    images = pipe(PROMPTS, generator=noise, **options).images
    hook.remove()
    assert evaluations == [len(PROMPTS)] * steps  # one a step, and no second half
    assert (clip(images) == torch.arange(len(PROMPTS))).float().mean() >= 0.75


@pytest.mark.parametrize(("name", "growth"), [("emoji-sd", 1.5), ("emoji-flow", 1.25)])
def test_high_scales_burn(name, growth):
    low, high = (clipping(draw(name, ClassifierFreeGuidance(scale))) for scale in (2.0, 15.0))
    assert high > growth * low


@pytest.mark.parametrize(("scale", "share"), [(8.0, 0.85), (15.0, 0.9)])
def test_apg_burns_less_at_the_same_scale(scale, share):
    rules = ClassifierFreeGuidance(scale), AdaptiveProjectedGuidance(scale)
    plain, projected = (clipping(draw("emoji-sd", rule)) for rule in rules)
    assert projected < share * plain


def test_all_together_stay_under_60_megabytes():
    files = [file for file in MODELS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 60e6
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
