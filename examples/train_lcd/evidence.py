"""What reward guidance and reward distillation do on emoji-lcm, beside what was optimised: a table with intervals.

    python examples/train_lcd/evidence.py --num-images 256 --output runs/evidence \
        --students rg-lcd=runs/rg rg-lcd-proxy=runs/proxy rocm-kl=runs/rocm-kl rocm-js=runs/rocm-js \
        --latent-rewards runs/latent-0 runs/latent-1 runs/latent-2

Every arm draws the same prompts from the same noise, in `--steps` evaluations. The reward is emoji-clip's cosine; the
judge, emoji-judge, is optimised by no arm. Intervals are paired bootstrap ones, of the difference to plain emoji-lcm.
Writes evidence.json, evidence.md, and of each arm a sheet and its images, which a later run with more arms reuses.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from data import encode
from export import student_pipeline
from measure import Measure, table
from networks import UPDATE
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from diffguide.eval.bootstrap import FEWEST
from diffguide.eval.references import load_reference, reference_captions
from diffguide.guidance import ClipReward, RewardEnsemble, RewardGuidance
from diffguide.pipelines import best_of_n, guide, load_pipeline, load_reward
from diffguide.pipelines.files import whole
from diffguide.pipelines.hashing import content_hash

Arm = Callable[[list[str], list[int]], Tensor]
MODEL, TEACHER, REWARD, JUDGE, REFERENCE = "emoji-lcm", "emoji-sd", "emoji-clip", "emoji-judge", "emoji"
FIRST, LATENT, ENSEMBLE = "lcm", "latent reward", "ensemble"
OWN = (LATENT, ENSEMBLE, "best of ", "reward ", "teacher, ")
"""How the names of arms begin that no student may have."""


def main() -> None:
    """Sample, measure, write."""
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    prompts, seeds = plan(args.num_images, args.seed)
    measure = Measure(load_reward(REWARD), load_reward(JUDGE), args.extractor, REFERENCE, prompts)
    results, seconds = {}, {}
    for name, arm in arms(args).items():
        file = args.output / file_name(args, name)
        images, seconds[name] = sampled(arm, prompts, seeds, args.batch_size, file)
        results[name] = measure(images)
        to_pil_image(make_grid(images[:16], 8, padding=0)).save(file.with_suffix(".png"))
        rows = table(results, seconds)
        (args.output / "evidence.md").write_text(rows.markdown)
        record = {"arguments": {key: str(value) for key, value in vars(args).items()}, "arms": rows.values}
        (args.output / "evidence.json").write_text(json.dumps(record, indent=1))
        print(rows.markdown.splitlines()[-1], flush=True)


def sampled(arm: Arm, prompts: list[str], seeds: list[int], size: int, file: Path) -> tuple[Tensor, float]:
    """The images of an arm, as 8 bits hold them, and seconds an image; from `file` where an earlier run left them."""
    if file.exists() and len(load_file(file)["images"]) == len(prompts):
        kept = load_file(file)
        return kept["images"].float() / 255, float(kept["seconds"])
    began, parts = time.perf_counter(), []
    for i in range(0, len(prompts), size):
        parts.append(arm(prompts[i : i + size], seeds[i : i + size]).cpu().mul(255).round().clamp(0, 255).byte())
    seconds = (time.perf_counter() - began) / len(prompts)
    with whole(file) as temporary:
        save_file({"images": torch.cat(parts), "seconds": torch.tensor(seconds)}, temporary)
    return torch.cat(parts).float() / 255, seconds


def file_name(args: argparse.Namespace, name: str) -> str:
    """What the images of an arm are kept as: its name, and what else they depend on, of folders the content."""
    parts = [name.replace(" ", "-"), args.steps, f"{args.guidance_scale:g}", args.seed]
    folders = dict(item.split("=", 1) for item in args.students)
    if name in folders:
        weights = [Path(folders[name]) / part for part in (UPDATE, "unet")]
        parts += [content_hash(path) for path in weights if path.exists()]
    elif name.startswith((LATENT, ENSEMBLE)):
        parts += [f"{args.strengths[-1]:g}", *map(content_hash, map(Path, args.latent_rewards))]
    return "-".join(map(str, parts)) + ".safetensors"


def plan(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Captions in random order, repeated if short, and a seed for each."""
    captions = sorted({text for text in reference_captions(REFERENCE) if "skin tone" not in text})
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(seed)).tolist()
    return [captions[order[i % len(order)]] for i in range(count)], [seed * 1_000_003 + i for i in range(count)]


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--num-images", type=int, default=256)
    add("--batch-size", type=int, default=32)
    add("--steps", type=int, default=4)
    add("--guidance-scale", type=float, default=4.0, help="embedded in emoji-lcm (default 4)")
    add("--strengths", type=float, nargs="+", default=[0.1, 0.3], help="of RewardGuidance, RMS in latents")
    add("--bounds", type=float, nargs="+", default=[0.02], help="KL per dimension and step of the trust region")
    add("--best-of", type=int, nargs="+", default=[2, 4])
    add("--students", nargs="*", default=[], metavar="NAME=FOLDER", help="outputs of train_lcd.py")
    add("--latent-rewards", nargs="*", default=[], metavar="FOLDER", help="an ensemble, of train_latent_reward.py")
    add("--extractor", default="inception", help="of fd, precision and recall (default inception)")
    add("--seed", type=int, default=0)
    add("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.num_images < FEWEST:
        parser.error(f"--num-images is at least {FEWEST}, below which there is no interval")
    names = [item.partition("=")[0] for item in args.students]
    own = [name for name in names if name == FIRST or name.startswith(OWN) or names.count(name) > 1]
    if own or not all("=" in item for item in args.students):
        parser.error(
            f"--students takes NAME=FOLDER, each NAME once and none of an arm here, not {' '.join(args.students)}"
        )
    return args


def arms(args: argparse.Namespace) -> dict[str, Arm]:
    """What is compared, plain emoji-lcm first."""
    pipe = load_pipeline(MODEL, progress_bar=False)
    reward = load_reward(REWARD)
    settings = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale}
    call = settings | {"output_type": "pt"}

    def noise(seeds: list[int]) -> list[torch.Generator]:
        return [torch.Generator(pipe.device).manual_seed(seed) for seed in seeds]

    def plain(of) -> Arm:
        return lambda prompts, seeds: of(prompts, generator=noise(seeds), **call).images

    def guided(rule: RewardGuidance) -> Arm:
        def arm(prompts: list[str], seeds: list[int]) -> Tensor:
            with guide(pipe, rule):
                return plain(pipe)(prompts, seeds)

        return arm

    def best(n: int) -> Arm:
        def one(prompt: str, seed: int) -> Tensor:
            tries = [seed + 500_000 * i for i in range(n)]
            return pil_to_tensor(best_of_n(pipe, reward, prompt, n, tries, batch_size=n, **settings).image) / 255

        return lambda prompts, seeds: torch.stack([one(*pair) for pair in zip(prompts, seeds)])

    found: dict[str, Arm] = {FIRST: plain(pipe)}
    found |= {f"best of {n}": best(n) for n in args.best_of}
    for strength in args.strengths:
        found[f"reward {strength:g}"] = guided(RewardGuidance(reward, strength))
        for bound in args.bounds:
            rule = RewardGuidance(reward, strength, kl=bound, per_dimension=True)
            found[f"reward {strength:g}, KL {bound:g}"] = guided(rule)
    known = _known_latents(pipe) if args.latent_rewards else ()
    members = [ClipReward.from_pretrained(path, name=Path(path).name) for path in args.latent_rewards]
    if members:
        found[LATENT] = guided(RewardGuidance(members[0], args.strengths[-1]))
    for combine in ("mean", "worst", "uncertainty") if len(members) > 1 else ():
        ensemble = RewardEnsemble(members, combine)
        ensemble.calibrate(*known)
        found[f"{ENSEMBLE} {combine}"] = guided(RewardGuidance(ensemble, args.strengths[-1]))
    teacher = load_pipeline(TEACHER, progress_bar=False)
    more = {"num_inference_steps": 25}
    found["teacher, 25 steps"] = lambda prompts, seeds: teacher(prompts, generator=noise(seeds), **(call | more)).images
    for item in args.students:
        name, _, folder = item.partition("=")
        student = student_pipeline(TEACHER, Path(folder)).to(pipe.device)
        student.set_progress_bar_config(disable=True)
        found[name] = plain(student)
    return found


@torch.no_grad()
def _known_latents(pipe, count: int = 512) -> tuple[Tensor, list[str]]:
    """Latents of the reference and their captions, on which the rewards of an ensemble are brought to one scale."""
    listed = list(load_reference(REFERENCE).source)
    listed = listed[:: len(listed) // count][:count]
    images = torch.stack([image for _, image, _ in listed]).to(pipe.device) / 255
    return encode(pipe, images), [caption for *_, caption in listed]


if __name__ == "__main__":
    main()
