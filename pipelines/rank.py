"""diffguide rank: better pictures of one prompt by saying which are better; the initial noise follows the order.

    diffguide rank "red apple" --candidates 8 --top 3 --rounds 10 --output apple
    diffguide rank "red apple" --reward emoji-clip --rounds 20 --output apple

Each round shows two sheets, sheet.png in the output folder. Of the first, name the best ones, best first ("3 1 5"); of
the second, the one best picture. An empty line, or the end of the input, keeps the best so far as best.png; q quits
without it. Every answer is kept: the same command with --resume goes on. With --reward a score answers.
"""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_command, argument, check_count, check_seed, check_text, to_number
from .calibrated import rule_on
from .errors import UserError
from .options import add_picture_options, add_sampling_options
from .output import slugify
from .rank_folder import RankFolder
from .request import DEFAULT_MODEL, make_request
from .rewards import check_reward

if TYPE_CHECKING:
    from .rank_session import Answer, Judge, Session


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = add_command(commands, "rank", "better pictures by saying which are better", __doc__, run)
    parser.set_defaults(prompt_file=None, from_image=None, seeds=None)
    add = parser.add_argument
    add("prompt", type=argument(check_text), metavar="PROMPT", help="what to draw, in quotes")
    add("--model", "-m", help=f"as for generate (default {DEFAULT_MODEL})")
    add("--guidance", metavar="RULE[:OPTION=VALUE,...]", help="as for generate")
    add_sampling_options(parser, batch_size=1)
    add_picture_options(parser)
    add("--seed", type=argument(check_seed), metavar="K", help="of the noise to start with (default 0)")
    add("--candidates", type=argument(check_count), default=8, metavar="M", help="to be ranked in a round (default 8)")
    add("--top", type=argument(check_count), default=3, metavar="K", help="how many of them are named (default 3)")
    add("--rounds", type=argument(check_count), default=10, metavar="N", help="default 10; 10 to 20 are usual")
    add("--spread", type=argument(_spread), default=0.5, metavar="MU", help="of the candidates (default 0.5)")
    add("--reward", metavar="NAME", help="a reward to rank by, in place of a person; see `diffguide list rewards`")
    add("--output", "-o", metavar="FOLDER", help="default: PROMPT-rank in the current folder")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the search in the folder")
    again.add_argument("--overwrite", action="store_true", help="replace what a search has left in the folder")


def run(args: argparse.Namespace) -> int:
    """Search; 0. UserError for a mistake of the user."""
    request = make_request(args)
    if args.candidates < 2:
        raise UserError(f"{args.candidates} candidate cannot be ranked: give at least two --candidates")
    if args.top > args.candidates:
        raise UserError(f"there is no best {args.top} of {args.candidates}: give a smaller --top or more --candidates")
    if args.reward is not None:
        check_reward(args.reward)
    own = ("prompts", "seeds", "model", "guidance", "guidance_scale", "steps", "negative_prompt", "scheduler")
    identity = {name: getattr(request, name) for name in (*own, "height", "width", "dtype")}
    options = {"candidates": args.candidates, "spread": args.spread}
    name = f"{slugify(args.prompt)}-rank" if args.output is None else args.output
    folder = RankFolder(Path(name).expanduser(), identity | options, args.resume, args.overwrite)

    from .handle import guide
    from .loading import load_pipeline
    from .metadata import save_png
    from .rank_session import Person, RewardJudge, Session
    from .rewards import load_reward
    from .rules import place_rewards
    from .sampling import call_arguments, make_rule, sample

    # a mistake in them should not cost the loading of a model
    rule_on(request.model, request.guidance, request.guidance_scale, request.steps, request.scheduler)
    judge: Judge = Person(folder.sheet, args.top)
    if args.reward is not None:
        judge = RewardJudge(load_reward(args.reward, device=args.device), args.top)
    pipe = load_pipeline(
        request.model,
        dtype=request.dtype,
        device=request.device,
        scheduler=request.scheduler,
        cpu_offload=request.cpu_offload,
        progress_bar=False,
    )
    rule = make_rule(request, pipe)
    place_rewards(rule, pipe._execution_device)
    shared = call_arguments(pipe, rule, request)
    if request.negative_prompt is not None:
        shared["negative_prompt"] = request.negative_prompt
    with folder.held():
        with nullcontext() if rule is None else guide(pipe, rule):
            session = Session(pipe, args.prompt, request.seeds[0], shared, request.batch_size, options)
            folder.load(session.search)
            folder.save(session.search)  # so that there is something to resume before the first answer, too
            answer = _search(session, judge, args.rounds, folder)
        rounds = session.search.rounds
        if answer == "quit":
            print(f"diffguide: {rounds} of {args.rounds} rounds are kept: --resume goes on", file=sys.stderr)
            return 0
        arguments = session.start.arguments(session.search.point[None])
        (picture,) = sample(pipe, rule, request, arguments)
        folder.save_noise(arguments["latents"])
        save_png(picture.image, folder.best, replace(picture.settings, noise=folder.noise.name))
    print(folder.best)
    print(
        f"diffguide: the best after {rounds} of {args.rounds} rounds; its initial noise is {folder.noise}",
        file=sys.stderr,
    )
    return 0


def _search(session: Session, judge: Judge, rounds: int, folder: RankFolder) -> Answer:
    """Ask until the rounds are complete or the judge has enough; its last answer. Each one is kept in the folder."""
    answer: Answer = "keep"
    while session.search.rounds < rounds:
        answer = judge(session, rounds)
        if isinstance(answer, str):
            break
        session.tell(answer)
        folder.save(session.search)
    return answer


def _spread(text: str) -> float:
    value = to_number(text)
    if not 0 < value < math.inf:
        raise UserError(f"a spread must be a number above 0, not {text[:40]!r}")
    return value
