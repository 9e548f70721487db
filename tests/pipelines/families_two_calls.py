"""Image pipelines that call their denoiser twice a step. Most get random embeddings in place of a text encoder's."""

from collections.abc import Callable
from typing import Any

import tiny_parts as parts
import torch
from tiny_family import Family
from tiny_inputs import BIG, image, mask, plus_one
from tiny_made import EMBEDS, GIVEN, ROPE, WIDE, embedded, matched, model, of


def chroma(name: str) -> Callable[[], Any]:
    transformer = model(
        "ChromaTransformer2DModel",
        in_channels=16,
        **WIDE,
        **ROPE,
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )

    def guidance_free() -> Any:
        made = transformer()
        made.register_to_config(guidance_embeds=False)  # which inpainting asks for and the class does not declare
        return made

    return of(name, guidance_free, vae=parts.kl_vae)


CHROMA = {"inputs": embedded(torch.float32, prompt_embeds=(5, 16), prompt_attention_mask=(5,)), **GIVEN}


COGVIEW4 = {
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "text_embed_dim": 16,
    "time_embed_dim": 16,
    "condition_dim": 8,
    "rope_axes_dim": (8, 8),
}


EDITED = {"image": image(16), "mask_image": mask(16), "height": 16, "width": 16, "strength": 0.75}


TWO_CALLS = (
    Family("chroma", chroma("ChromaPipeline"), "flow", fixed=BIG, **CHROMA),
    Family(
        "chroma-img2img",
        chroma("ChromaImg2ImgPipeline"),
        "flow",
        fixed={k: v for k, v in EDITED.items() if k != "mask_image"},
        **CHROMA,
    ),
    Family("chroma-inpaint", chroma("ChromaInpaintPipeline"), "flow", fixed=EDITED, **CHROMA),
    Family(
        "cogview4",
        of("CogView4Pipeline", model("CogView4Transformer2DModel", in_channels=4, **COGVIEW4)),
        "flow",
        fixed=BIG,
        **EMBEDS,
    ),
    Family(
        "cogview4-control",
        of("CogView4ControlPipeline", model("CogView4Transformer2DModel", in_channels=8, **COGVIEW4), vae=parts.kl_vae),
        "flow",
        fixed={"height": 16, "width": 16, "control_image": image(16)},
        **EMBEDS,
    ),
    Family(
        "lumina2",
        of(
            "Lumina2Pipeline",
            model(
                "Lumina2Transformer2DModel",
                sample_size=4,
                in_channels=4,
                hidden_size=24,
                num_layers=1,
                num_refiner_layers=1,
                num_attention_heads=3,
                num_kv_heads=1,
                multiple_of=8,
                axes_dim_rope=(4, 2, 2),
                axes_lens=(32, 32, 32),
                cap_feat_dim=16,
            ),
        ),
        "flow",
        embedded(prompt_embeds=(5, 16), prompt_attention_mask=(5,)),
        BIG,
        native=matched,
        **GIVEN,
    ),
    Family(
        "ovis",
        of("OvisImagePipeline", model("OvisImageTransformer2DModel", in_channels=16, out_channels=16, **WIDE, **ROPE)),
        "flow",
        fixed=BIG | {"negative_prompt": None},
        **EMBEDS,
    ),
    Family(
        "krea2",
        of(
            "Krea2Pipeline",
            model(
                "Krea2Transformer2DModel",
                in_channels=16,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=16,
                timestep_embed_dim=16,
                text_hidden_dim=16,
                num_text_layers=2,
                text_num_attention_heads=2,
                text_num_key_value_heads=1,
                text_intermediate_size=16,
                num_layerwise_text_blocks=1,
                num_refiner_text_blocks=1,
                axes_dims_rope=(4, 4, 8),
            ),
            text_encoder_select_layers=(0, 1),
        ),
        "flow",
        embedded(prompt_embeds=(5, 2, 16), prompt_embeds_mask=(5,)),
        BIG,
        native=plus_one,
        off=0.0,
        **GIVEN,
    ),
    Family(
        "bria-fibo2",
        of(
            "BriaFibo2Pipeline",
            model(
                "BriaFibo2Transformer2DModel",
                in_channels=4,
                dim=32,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                cap_feat_dim=16,
                injection_layer_ids=(0,),
                perceiver_num_layers=1,
                min_num_gist_tokens=2,
                max_num_gist_tokens=4,
                gist_step=2,
                gist_min_text_len=2,
                gist_max_text_len=8,
                axes_dims=(4, 4, 8),
                axes_lens=(64, 64, 64),
            ),
        ),
        "flow",
        fixed=BIG,
        inputs=embedded(prompt_embeds=(2, 5, 16), prompt_embeds_mask=(5,)),
        **GIVEN,
    ),
)
