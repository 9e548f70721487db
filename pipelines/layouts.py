"""How a pipeline class evaluates its denoiser under classifier-free guidance: one row of the table."""

from __future__ import annotations

from dataclasses import dataclass

TEXT = "encoder_hidden_states"
"""What denoisers, and attentions in them, call the states of a text."""


@dataclass(frozen=True)
class Layout:
    """One pipeline class (or a family of them that behave alike).

    classes: names of the diffusers classes. calls: "uncond-first" and "cond-first" are one call with both halves in one
    batch, in that order; "two" is two calls a step, cond first; "single" is the conditional prediction alone, for
    rules that need no other; "guider" its own place for a guider; "unknown" until `probe` has seen its first call.
    refused: why no rule can act at all, or "".

    What switches guidance on. scale: the argument of `__call__`, "" where nothing does; negative: what has to be given
    as `negative_prompt` as well, or None. off: the largest scale at which guidance is off. offset: w of diffusers'
    convention minus that scale. other_scales: further scales of its own, which do not count under a rule. unsupported:
    arguments that bring in what no rule can act on, unless they keep their default. also: further arguments that switch
    guidance on, with their values.

    Where the denoiser is. denoisers, scheduler: the attributes that hold it and its scheduler. scaled_timestep: the
    model is handed another timestep than the scheduler's. predicts: "" is what the scheduler says; "negated" its
    negative, "sample" x0 whatever the scheduler says, "ratio" a flow whose scheduler states noise over signal, "other"
    none of the known parametrisations.

    What of a prediction the rule sees, along channel_dim: width "shared" is what model input and prediction have in
    common, "half" the first half of the prediction (a variance follows, or a picture that conditions), "all" everything
    (the model input being of another kind), a number that many. More predictions: streams, the arguments with the model
    inputs of the second output and so on. per_frame: a scale per frame, of which the rule's is the largest.
    further_calls: calls with one row per image that the pipeline compares with the conditional prediction.
    tokens: latents are the "first" or the "last" entries along dimension 1 (as many as `prepare_latents` makes), what
    surrounds them is reference; "" everything. first_frame: the dimension of frames of which the first is given, 0
    where none is; packed: the argument that is the number of frames, where that dimension holds tokens of one frame
    after another. frame_timesteps: each frame may have its own timestep.
    third: the argument that brings a third prediction, and the order of the three; third_scale: the scale of the image.

    latents_first: where text and latents are one sequence from the first attention on, the part of the denoiser that
    sees the latents alone, and the part where they are the beginning of the sequence.

    How one half is cut out to save the other. split: arguments whose halves lie along another dimension, or are no
    multiple of the rows; lists: arguments that are lists with an entry per row; shared: arguments that both halves
    share. whole: no half can be cut out, so that nothing is saved.

    Two calls. mask: the argument that is 1 where the pipeline overwrites the prediction. copied: the pipeline computes
    on a copy of the conditional prediction; float32: on one in float32. second: the attribute that holds a denoiser of
    the unconditional prediction's own.

    foreign: the pipeline is a class that only derives from these, or has the name of one, and what its call does may be
    something else, until `probe` has seen its first.
    """

    classes: tuple[str, ...]
    calls: str = "uncond-first"
    scale: str = "guidance_scale"
    negative: str | None = None
    off: float = 1.0
    offset: float = 0.0
    other_scales: tuple[str, ...] = ()
    denoisers: tuple[str, ...] = ("unet",)
    scheduler: str = "scheduler"
    unsupported: tuple[str, ...] = ()
    scaled_timestep: bool = False
    predicts: str = ""
    channel_dim: int = 1
    width: str | int = "shared"
    streams: tuple[str, ...] = ()
    per_frame: bool = False
    further_calls: bool = False
    third: tuple[str, tuple[str, ...]] | None = None
    third_scale: str = "image_guidance_scale"
    split: tuple[tuple[str, int], ...] = ()
    lists: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    whole: bool = False
    tokens: str = ""
    first_frame: int = 0
    packed: str = ""
    latents_first: tuple[str, str] | None = None
    mask: str = ""
    copied: bool = False
    float32: bool = False
    second: str = ""
    frame_timesteps: bool = False
    also: tuple[tuple[str, object], ...] = ()
    refused: str = ""
    foreign: bool = False

    @property
    def description(self) -> str:
        """How the denoiser is evaluated, for people."""
        ways = {
            "uncond-first": "one call, unconditional half first",
            "cond-first": "one call, conditional half first",
            "two": "two calls, conditional one first",
            "single": "one call, conditional alone: rules that need no other prediction",
            "guider": "its own place for a guider",
        }
        also = {
            "three predictions with an image": self.third is not None,
            "a scale per frame": self.per_frame,
            "several outputs": bool(self.streams),
            "nothing is saved": self.whole,
            "prediction space only": self.predicts == "other",
        }
        return "; ".join([ways[self.calls], *(words for words, holds in also.items() if holds)])
