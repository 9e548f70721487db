"""Make the calibrations that ship with the embedded models: `diffguide calibrate` on captions of the emoji set.

    python examples/calibrate_emoji.py --output pipelines/models
    python examples/calibrate_emoji.py --output runs/try --only emoji-flow/ag-20 --prompts 8

The prompts are the first 96 of the set's captions, each once, sorted and then shuffled by `random.Random(0)`; a quarter
of them is held out from the fit. A file that is there already is left as it is, and what was interrupted goes on where
it was.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from diffguide.eval.cli import main as diffguide
from diffguide.eval.references import reference_captions

NAMES = [
    f"{model}/{name}" for model in ("emoji-sd", "emoji-flow") for name in ("ag-20", "linear-ag-20", "linear-ag-25")
]


def main() -> int:
    """Calibrate one after the other; the exit status of the first that failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the folder for MODEL/calibration/RULE-STEPS.json")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="MODEL/RULE-STEPS")
    parser.add_argument("--prompts", type=int, default=96, help="how many; at least 4 (default 96)")
    args = parser.parse_args()

    captions = sorted(set(reference_captions("emoji")))
    random.Random(0).shuffle(captions)
    for name in args.only:
        model, file = name.split("/")
        rule, _, steps = file.rpartition("-")
        output = args.output / model / "calibration" / f"{file}.json"
        if output.exists():
            continue
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            prompts = Path(folder) / "prompts.txt"
            prompts.write_text("\n".join(captions[: args.prompts]), encoding="utf-8")
            words = ["--model", model, "--steps", steps, "--prompt-file", str(prompts), "--output", str(output)]
            status = diffguide(["calibrate", rule, *words])
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
