"""Make the reference set `emoji` that ships in the package: one lossless sheet of all images, and their captions.

    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
    python examples/make_reference.py --data package --output eval/data/emoji

Image k stands in row k // columns and column k % columns of the sheet. The same package gives the same files again.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "train_emoji"))
from data import load_emoji


def main() -> None:
    """Write sheet.webp and captions.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the unpacked npm package")
    parser.add_argument("--output", type=Path, required=True, help="folder for the two files")
    args = parser.parse_args()

    emoji = load_emoji(args.data)
    count, _, side, _ = emoji.images.shape
    columns = math.ceil(math.sqrt(count))  # WebP ends at 16,383 pixels a side
    rows = math.ceil(count / columns)
    tiles = torch.full((rows * columns, 3, side, side), 255, dtype=torch.uint8)
    tiles[:count] = emoji.images
    sheet = tiles.view(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)

    args.output.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.numpy()).save(args.output / "sheet.webp", lossless=True, quality=100, method=6)
    captions = {"side": side, "columns": columns, "captions": emoji.names}
    (args.output / "captions.json").write_text(
        json.dumps(captions, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    print(f"{count} images, {(args.output / 'sheet.webp').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
