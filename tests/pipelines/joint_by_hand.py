"""Transformers of SD3 and Flux with two texts and one stream of latents, written by hand from the paper's lines."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

Guided = Callable[[Tensor, Tensor], Tensor]


def heads(attn: Any, tokens: Tensor, context: bool = False) -> list[Tensor]:
    """Queries, keys and values (B, heads, tokens, channels)."""
    names = ("add_q_proj", "add_k_proj", "add_v_proj") if context else ("to_q", "to_k", "to_v")
    split = [getattr(attn, name)(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2) for name in names]
    norms = [getattr(attn, name) for name in (("norm_added_q", "norm_added_k") if context else ("norm_q", "norm_k"))]
    return [tensor if norm is None else norm(tensor) for tensor, norm in zip(split, [*norms, None])]


def attended(tensors: list[Tensor], rotary: Any) -> Tensor:
    if rotary is not None:
        tensors = [*(apply_rotary_emb(tensor, rotary) for tensor in tensors[:2]), tensors[2]]
    return F.scaled_dot_product_attention(*tensors).transpose(1, 2).flatten(2)


def double(
    block: Any, image: Tensor, texts: list[Any], tembs: list[Tensor], rotary: Any, guided: Guided
) -> tuple[Tensor, list[Any]]:
    normed, gate, shift, scale, gate_mlp = block.norm1(image, emb=tembs[0])
    own = heads(block.attn, normed)
    last = getattr(block, "context_pre_only", False)
    found, following = [], []
    for text, temb in zip(texts, tembs):
        context = (block.norm1_context(text, temb),) if last else block.norm1_context(text, emb=temb)
        both = [torch.cat(pair, 2) for pair in zip(heads(block.attn, context[0], True), own)]
        attention = attended(both, rotary)
        found.append(attention[:, text.shape[1] :])
        if not last:
            text = text + context[1][:, None] * block.attn.to_add_out(attention[:, : text.shape[1]])
            inner = block.norm2_context(text) * (1 + context[3][:, None]) + context[2][:, None]
            following.append(text + context[4][:, None] * block.ff_context(inner))
    image = image + gate[:, None] * block.attn.to_out[0](guided(*found))
    inner = block.norm2(image) * (1 + scale[:, None]) + shift[:, None]
    return image + gate_mlp[:, None] * block.ff(inner), following


def single(
    block: Any, image: Tensor, texts: list[Tensor], tembs: list[Tensor], rotary: Any, guided: Guided
) -> tuple[Tensor, list[Tensor]]:
    length, shared = texts[0].shape[1], image
    latents = block.norm(torch.cat([texts[0], image], 1), emb=tembs[0])[0][:, length:]
    normed = [block.norm(torch.cat([text, image], 1), emb=temb) for text, temb in zip(texts, tembs)]
    inputs = [torch.cat([tokens[:, :length], latents], 1) for tokens, _ in normed]
    found = [attended(heads(block.attn, tokens), rotary) for tokens in inputs]
    made, following = guided(*(attention[:, length:] for attention in found)), []
    for k in (1, 0):
        whole = torch.cat([torch.cat([found[k][:, :length], made], 1), block.act_mlp(block.proj_mlp(inputs[k]))], 2)
        whole = torch.cat([texts[k], shared], 1) + normed[k][1][:, None] * block.proj_out(whole)
        following.insert(0, whole[:, :length])
        image = whole[:, length:]
    return image, following


def sd3(model: Any, negative: dict[str, Tensor], guided: Guided) -> Callable[..., Any]:
    """A forward of SD3's transformer that knows the other arguments, of the negative prompt."""

    def forward(hidden_states: Tensor, timestep: Tensor, **given: Any) -> tuple[Tensor]:
        image, rows = model.pos_embed(hidden_states), len(hidden_states)
        both = given, {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in negative.items()}
        tembs = [model.time_text_embed(timestep, each["pooled_projections"]) for each in both]
        texts = [model.context_embedder(each["encoder_hidden_states"]) for each in both]
        for block in model.transformer_blocks:
            image, texts = double(block, image, texts, tembs, None, guided)
        patches = model.proj_out(model.norm_out(image, tembs[0]))
        size, patch = hidden_states.shape[-1] // model.config.patch_size, model.config.patch_size
        tiles = patches.reshape(rows, size, size, patch, patch, -1)
        return (tiles.permute(0, 5, 1, 3, 2, 4).reshape(rows, -1, size * patch, size * patch),)

    return forward


def flux(model: Any, negative: dict[str, Tensor], guided: Guided) -> Callable[..., Any]:
    """The same of Flux's."""

    def forward(hidden_states: Tensor, timestep: Tensor, guidance: Any = None, **given: Any) -> tuple[Tensor]:
        image, times = model.x_embedder(hidden_states), [timestep * 1000]
        times += [] if guidance is None else [guidance * 1000]
        rotary = model.pos_embed(torch.cat([given["txt_ids"], given["img_ids"]]))
        tembs = [model.time_text_embed(*times, each["pooled_projections"]) for each in (given, negative)]
        texts = [model.context_embedder(each["encoder_hidden_states"]) for each in (given, negative)]
        for block in model.transformer_blocks:
            image, texts = double(block, image, texts, tembs, rotary, guided)
        for block in model.single_transformer_blocks:
            image, texts = single(block, image, texts, tembs, rotary, guided)
        return (model.proj_out(model.norm_out(image, tembs[0])),)

    return forward
