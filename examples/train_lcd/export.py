"""Make a LatentConsistencyModelPipeline of a distilled student, or only the small files that ship in the package.

    python examples/train_lcd/export.py runs/lcm folder --teacher emoji-sd
    python examples/train_lcd/export.py runs/lcm pipelines/models/emoji-lcm --teacher emoji-sd --update-only

The first is a diffusers folder, for `load_pipeline` or `from_pretrained`; the second the low-rank update in half
precision and the scheduler, without the directions that hold the last share of each update's energy.
"""

import argparse
from pathlib import Path

import torch
from consistency import NOISE_SCHEDULE
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel
from networks import UPDATE, Student
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffguide.pipelines import load_pipeline
from diffguide.pipelines.low_rank import merge


def scheduler_like(config: dict) -> LCMScheduler:
    """The consistency sampler on the teacher's noise schedule; steps_offset=1 is what its pipeline expects."""
    names = [name for name in (*NOISE_SCHEDULE, "prediction_type") if config.get(name) is not None]
    return LCMScheduler(**{name: config[name] for name in names}, original_inference_steps=50, steps_offset=1)


def student_pipeline(teacher: str, student: Path) -> LatentConsistencyModelPipeline:
    """The teacher's pipeline with the student in place of its UNet."""
    pipe = load_pipeline(teacher, device="cpu", dtype="float32", progress_bar=False)
    if (student / "unet").is_dir():
        unet = UNet2DConditionModel.from_pretrained(student / "unet")
    else:
        unet = Student(pipe.unet, rank=1).unet  # the teacher with a place for the guidance scale
        merge(unet, student / UPDATE)
    parts = {name: part for name, part in pipe.components.items() if name not in ("unet", "scheduler", "image_encoder")}
    scheduler = scheduler_like(pipe.scheduler.config)
    return LatentConsistencyModelPipeline(**parts, unet=unet, scheduler=scheduler, requires_safety_checker=False)


def compressed(state: dict[str, Tensor], energy: float) -> dict[str, Tensor]:
    """Each update B A with the fewest singular directions that hold `energy` of its squared norm, in half precision."""
    found = {}
    for key, down in state.items():
        if ".lora_A." not in key:
            continue
        other = key.replace(".lora_A.", ".lora_B.")
        (across, right), (along, left) = (torch.linalg.qr(x) for x in (down.flatten(1).T, state[other].flatten(1)))
        u, singular, v = torch.linalg.svd(left @ right.T)
        shares = singular.square().cumsum(0) / singular.square().sum().clamp(min=1e-30)
        rank = min(int((shares < energy).sum()) + 1, len(singular))
        root = singular[:rank].sqrt()
        found[key] = (root[:, None] * (v[:rank] @ across.T)).view(rank, *down.shape[1:]).half().contiguous()
        shape = (len(along), rank, *state[other].shape[2:])
        found[other] = (along @ u[:, :rank] * root).view(shape).half().contiguous()
    return found


def main() -> None:
    """Export one student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path, help="the output folder of train_lcd.py")
    parser.add_argument("to", type=Path)
    parser.add_argument("--teacher", default="emoji-sd", help="what it was distilled from (default emoji-sd)")
    parser.add_argument("--update-only", action="store_true", help="the low-rank update and the scheduler alone")
    parser.add_argument("--energy", type=float, default=0.95, help="share that --update-only keeps (default 0.95)")
    args = parser.parse_args()
    if not args.update_only:
        student_pipeline(args.teacher, args.student).save_pretrained(args.to)
        return
    if not (args.student / UPDATE).is_file():
        parser.error(f"{args.student} has no {UPDATE}: --update-only is for students of a rank above 0")
    args.to.mkdir(parents=True, exist_ok=True)
    save_file(compressed(load_file(args.student / UPDATE), args.energy), args.to / UPDATE)
    (args.to / UPDATE).chmod(0o644)
    teacher = load_pipeline(args.teacher, device="cpu", progress_bar=False)
    scheduler_like(teacher.scheduler.config).save_pretrained(args.to / "scheduler")


if __name__ == "__main__":
    main()
