"""The picture of the README: one seed at scales 2, 8 and 15, classifier-free guidance above, APG below.

python examples/readme_figure.py docs/cfg_and_apg.png
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide, load_pipeline

PROMPTS = ("red apple", "tiger face", "rose")
SCALES = (2.0, 8.0, 15.0)
RULES = {"CFG": ClassifierFreeGuidance, "APG": AdaptiveProjectedGuidance}
CELL, LABEL = 112, 48


def main() -> None:
    """Draw the cells and put them together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    pipe = load_pipeline("emoji-sd", progress_bar=False)
    columns = [(prompt, scale) for prompt in PROMPTS for scale in SCALES]
    figure = Image.new("RGB", (LABEL + CELL * len(columns), LABEL + CELL * len(RULES)), "white")
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(16)
    for column, (prompt, scale) in enumerate(columns):
        middle = LABEL + CELL * column + CELL // 2
        draw.text((middle, LABEL - 12), f"scale {scale:g}", "black", font, anchor="mm")
        if scale == SCALES[1]:
            draw.text((middle, 14), prompt, "black", font, anchor="mm")
    for row, (name, rule) in enumerate(RULES.items()):
        draw.text((4, LABEL + CELL * row + CELL // 2), name, "black", font, anchor="lm")
        for column, (prompt, scale) in enumerate(columns):
            with guide(pipe, rule(scale)) as guided:
                noise = torch.Generator().manual_seed(args.seed)
                image = guided(prompt, num_inference_steps=25, generator=noise).images[0]
            corner = (LABEL + CELL * column, LABEL + CELL * row)
            figure.paste(image.resize((CELL, CELL), Image.Resampling.NEAREST), corner)
    figure.save(args.output, optimize=True)


if __name__ == "__main__":
    main()
