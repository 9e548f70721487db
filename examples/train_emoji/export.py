"""Write the trained parts into the package, in half precision, as `load_pipeline` reads them.

python examples/train_emoji/export.py --vae runs/vae --clip runs/clip --sd runs/sd --flow runs/flow --to pipelines/models
"""  # noqa: E501

import argparse
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderTiny,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import CLIPModel, CLIPTokenizer

from diffguide.guidance.preparation import Preparation

SD_SCHEDULER = DPMSolverMultistepScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    timestep_spacing="trailing",
    steps_offset=1,  # what StableDiffusionPipeline expects; it warns of any other
)
PREPARATION = Preparation(64, 64, (0.5,) * 3, (0.5,) * 3)  # what train_clip.py gives both
FLOW_SCHEDULER = FlowMatchEulerDiscreteScheduler(shift=1.0)


def main() -> None:
    """Export whichever parts are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("vae", "clip", "judge", "sd", "flow"):
        parser.add_argument(f"--{part}", type=Path, help=f"output folder of the training of the {part} part")
    parser.add_argument("--to", type=Path, required=True, help="the models folder of the package")
    args = parser.parse_args()

    if args.vae:
        AutoencoderTiny.from_pretrained(args.vae / "vae").to(torch.float16).save_pretrained(args.to / "emoji-vae")
    for source, name in ((args.clip, "emoji-clip"), (args.judge, "emoji-judge")):
        if source:
            CLIPModel.from_pretrained(source / "clip").to(torch.float16).save_pretrained(args.to / name)
            CLIPTokenizer.from_pretrained(source / "tokenizer").save_pretrained(args.to / name)
            text = json.dumps(PREPARATION.to_config(), indent=1)
            (args.to / name / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")
    if args.sd:
        unet = UNet2DConditionModel.from_pretrained(args.sd / "unet").to(torch.float16)
        unet.save_pretrained(args.to / "emoji-sd" / "unet")
        SD_SCHEDULER.save_pretrained(args.to / "emoji-sd" / "scheduler")
    if args.flow:
        transformer = SD3Transformer2DModel.from_pretrained(args.flow / "transformer").to(torch.float16)
        transformer.save_pretrained(args.to / "emoji-flow" / "transformer")
        FLOW_SCHEDULER.save_pretrained(args.to / "emoji-flow" / "scheduler")


if __name__ == "__main__":
    main()
