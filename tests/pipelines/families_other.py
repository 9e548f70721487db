"""What denoises something else: priors, StableCascade, tokens, sound, sound and video."""

from typing import Any

import tiny_encoders as encoders
from diffusers import (
    AmusedPipeline,
    AmusedScheduler,
    AutoencoderOobleck,
    DDPMWuerstchenScheduler,
    EDMDPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    PriorTransformer,
    ShapEPipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
    UVit2DModel,
    VQModel,
)
from diffusers.models.unets import StableCascadeUNet
from tiny_family import Family
from tiny_inputs import TRANSFORMER, states
from tiny_parts import awake

PRIOR = {"denoisers": ("prior",)}


def shap_e() -> ShapEPipeline:
    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        embedding_dim=16,
        num_embeddings=4,
        embedding_proj_dim=16,
        time_embed_dim=16,
        num_layers=1,
        clip_embed_dim=32,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    scheduler = HeunDiscreteScheduler(
        beta_schedule="exp", prediction_type="sample", use_karras_sigmas=True, clip_sample=True
    )
    return ShapEPipeline(
        prior=prior,
        text_encoder=encoders.clip_text(projection=True),
        tokenizer=encoders.clip_tokenizer(),
        scheduler=scheduler,
        shap_e_renderer=None,
    )


def cascade_unet(**changes: Any) -> StableCascadeUNet:
    options = {
        "timestep_ratio_embedding_dim": 8,
        "patch_size": 1,
        "conditioning_dim": 16,
        "block_out_channels": (16,),
        "num_attention_heads": (2,),
        "down_num_layers_per_block": (1,),
        "up_num_layers_per_block": (1,),
        "down_blocks_repeat_mappers": (1,),
        "up_blocks_repeat_mappers": (1,),
        "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),),
        "clip_text_in_channels": 16,
        "clip_text_pooled_in_channels": 16,
        "clip_seq": 4,
        "kernel_size": 3,
        "dropout": (0.0,),
        "self_attn": True,
        "timestep_conditioning_type": ("sca", "crp"),
        "switch_level": (False,),
    }
    return awake(StableCascadeUNet(**(options | changes)))


def cascade_prior() -> StableCascadePriorPipeline:
    prior = cascade_unet(in_channels=16, out_channels=16, clip_image_in_channels=16)
    return StableCascadePriorPipeline(
        tokenizer=encoders.clip_tokenizer(),
        text_encoder=encoders.clip_text(projection=True),
        prior=prior,
        scheduler=DDPMWuerstchenScheduler(),
    )


def cascade_decoder() -> StableCascadeDecoderPipeline:
    decoder = cascade_unet(in_channels=4, out_channels=4, effnet_in_channels=4, timestep_conditioning_type=("sca",))
    return StableCascadeDecoderPipeline(
        decoder=decoder,
        tokenizer=encoders.clip_tokenizer(),
        text_encoder=encoders.clip_text(projection=True),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=None,
        latent_dim_scale=4.0,
    )


def amused() -> AmusedPipeline:
    transformer = UVit2DModel(
        hidden_size=16,
        use_bias=False,
        hidden_dropout=0.0,
        cond_embed_dim=16,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=16,
        vocab_size=32,
        codebook_size=32,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        downsample=True,
        upsample=True,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        attention_dropout=0.0,
        intermediate_size=16,
        layer_norm_eps=1e-6,
        ln_elementwise_affine=True,
    )
    vqvae = VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=8,
        norm_num_groups=4,
        num_vq_embeddings=32,
        mid_block_add_attention=False,
    )
    return AmusedPipeline(
        vqvae=vqvae,
        tokenizer=encoders.clip_tokenizer(),
        text_encoder=encoders.clip_text(projection=True),
        transformer=transformer,
        scheduler=AmusedScheduler(mask_token_id=31),
    )


def stable_audio() -> StableAudioPipeline:
    transformer = StableAudioDiTModel(
        sample_size=8,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_key_value_attention_heads=2,
        num_attention_heads=2,
        out_channels=4,
        cross_attention_dim=8,
        time_proj_dim=8,
        global_states_input_dim=16,
        cross_attention_input_dim=8,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=4,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    projection = StableAudioProjectionModel(text_encoder_dim=16, conditioning_dim=8, min_value=0, max_value=32)
    scheduler = EDMDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type="v_prediction")
    tokenizer = encoders.t5_tokenizer()
    tokenizer.model_max_length = 16
    return StableAudioPipeline(
        vae=vae,
        text_encoder=encoders.t5(),
        projection_model=projection,
        tokenizer=tokenizer,
        transformer=awake(transformer),
        scheduler=scheduler,
    )


def embeddings(prompts: int, images: int) -> dict[str, Any]:
    return {"image_embeddings": states(prompts, 16, 4).view(prompts, 4, 4, 4)}


FAMILIES = (
    Family("shap-e", shap_e, "sample", **PRIOR),
    Family("stable-cascade-prior", cascade_prior, "epsilon", fixed={"height": 128, "width": 128}, output="pt", **PRIOR),
    Family("stable-cascade-decoder", cascade_decoder, "epsilon", embeddings, images="", denoisers=("decoder",)),
    Family("amused", amused, "other", fixed={"height": 16, "width": 16}, **TRANSFORMER),
    Family("stable-audio", stable_audio, "v_prediction", images="num_waveforms_per_prompt", **TRANSFORMER),
)
