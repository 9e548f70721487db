"""A comparison from Python: what is asked for becomes a plan, and a plan becomes results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from pathlib import Path
from types import NoneType
from typing import Any

from diffguide.pipelines.arguments import check_count, check_scale, check_side, check_steps
from diffguide.pipelines.embedded import EMBEDDED
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.loading import model_kind
from diffguide.pipelines.request import DEFAULT_MODEL, read_prompts
from diffguide.pipelines.schedulers import check_scheduler
from diffguide.pipelines.spelling import check_guidance

from .columns import COLUMNS, check_column, fewest_images
from .contents import plan_contents
from .files import locked
from .grid import check_folder, clear_folder, has_begun, run_plan
from .growth import continuing, plan_of
from .measures import distances
from .metrics import unmeasured
from .options import check_networks
from .plan import Plan, grid
from .processes import Processes
from .prompts import EMOJI, emoji_prompts
from .references import REFERENCES, no_reference

SCALE, STEPS = 7.5, 25
"""Of models that are not embedded: diffusers' default scale."""


def make_plan(
    guidance: Sequence[str],
    guidance_scale: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    scheduler: Sequence[str | None] | None = None,
    *,
    model: str = DEFAULT_MODEL,
    num_images: int = 512,
    prompts: Sequence[str] | None = None,
    prompt_file: str | None = None,
    reference: str | None = None,
    metrics: Sequence[str] | None = None,
    **options: Any,
) -> Plan:
    """The plan of a comparison. Imports no torch.

    Args:
        guidance: rules as on the command line, such as "cfg" and "apg:eta=0.5"; the first is the one that the others
            are compared with.
        guidance_scale, steps, scheduler: every rule is sampled at all of them. None: of an embedded model its own, else
            7.5, 25 and the model's own scheduler, which a None among schedulers is, too.
        model: embedded name, diffusers folder, .safetensors file or hub id.
        num_images: of each cell.
        prompts, prompt_file: of images 0, 1, ..., repeated if short; None: the emoji captions, for embedded models. A
            list is kept in the folder of the run, one prompt a line.
        reference: images, a statistics file or an embedded set; None: "emoji" for embedded models.
        metrics: of `columns.CHOICES`; None: fid and the reward where there are such, and what shows burning.
        options: further fields of `plan.Plan`.

    Raises:
        UserError: whatever cannot be right, in one line.
    """
    model_kind(model)
    row = EMBEDDED.get(model)
    options |= {side: check_side(str(options[side])) for side in ("height", "width") if options.get(side) is not None}
    if not isinstance(options.get("reward") or "", str):
        raise UserError("the reward of a comparison is a name, which `diffguide list rewards` has, not an object")
    num_images, prompt_file = check_count(str(num_images)), None if prompt_file is None else str(prompt_file)
    metrics = None if metrics is None else _list_of("metrics", metrics, check_column)
    reference = reference or (EMOJI if row else None)
    if metrics is None:
        metrics = _usual(row is not None, reference is not None, bool(options.get("reward")))
    few = [name for name in metrics if num_images < fewest_images(name)]
    if few:
        raise UserError(f"{few[0]} needs {fewest_images(few[0])} images of each cell at least, not {num_images}")
    needed = distances(metrics)
    if needed and reference is None:
        raise UserError(f"{needed[0]} needs a --reference: images, a statistics file, or {', '.join(REFERENCES)}")
    if reference is not None and reference not in REFERENCES and not Path(reference).expanduser().exists():
        raise no_reference(reference)
    check_networks(options.get("extractor"), options.get("inception"), options.get("resize"))
    if ("reward" in metrics) != bool(options.get("reward")):
        lacking = UserError("reward needs a reward: --reward NAME")
        raise lacking if "reward" in metrics else unmeasured("a reward", "reward")
    if prompts is not None and prompt_file is not None:
        raise UserError("give prompts or a prompt file, not both")
    if prompts is None:
        if prompt_file is None and row is None:
            raise UserError("give the prompts with --prompt-file: only embedded models have some of their own")
        prompts = read_prompts(Path(prompt_file), repeats=True) if prompt_file else emoji_prompts()
    return Plan(
        model=model,
        cells=grid(
            _list_of("guidance", guidance, check_guidance),
            _list_of("guidance_scale", guidance_scale, check_scale) or [row.guidance_scale if row else SCALE],
            _list_of("steps", steps, check_steps) or [row.steps if row else STEPS],
            _list_of("scheduler", scheduler, check_scheduler) or [None],
        ),
        num_images=num_images,
        prompts=tuple(_list_of("prompts", prompts, str.strip)[:num_images]),
        prompt_file=prompt_file,
        reference=reference if needed else None,
        metrics=tuple(name for name in COLUMNS if name in metrics),
        **options,
    )


def compare_rules(guidance: Sequence[str], output: str | Path, *, overwrite: bool = False, **asked: Any) -> dict:
    """Sample and measure rules on the same seeds and prompts; the results, as in results.json.

    Args:
        guidance: rules, the first one is the baseline.
        output: the folder of this run, or of one to go on with: interrupted, or finished with fewer images, rules,
            scales or steps.
        overwrite: begin anew where the folder holds another comparison.
        asked: as `make_plan`.

    Raises:
        UserError: a mistake, a full disk, or another comparison in the folder.

    >>> results = compare_rules(["cfg", "apg"], "runs/demo", guidance_scale=[2, 8], num_images=64, metrics=["fid"])
    >>> results["conclusions"]
    """
    return compare(make_plan(guidance, **asked), output, overwrite)


def compare(plan: Plan, folder: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Sample, measure and report a plan; the results. UserError as `compare_rules`.

    Of the processes that `accelerate launch` started all but the main one return {}.
    """
    folder = Path(folder).expanduser()
    if not overwrite:
        plan = continuing(plan, plan_of(folder))
        check_folder(folder, plan)
    from .sampler import rule_of

    for cell in plan.cells:
        rule_of(plan, cell)  # a mistake in an option should cost neither the loading of a model nor an earlier run
    plan = replace(plan, files=plan_contents(plan))
    with _held(folder, plan, overwrite):
        return _compare(plan, folder, overwrite)


@contextmanager
def _held(folder: Path, plan: Plan, overwrite: bool) -> Iterator[None]:
    """The folder, checked, and held by the main process."""
    if Processes.rank() > 0:
        yield
        return
    anew = overwrite and (folder / "plan.json").is_file()
    if not anew:
        check_folder(folder, plan)  # before anything is written where something else may lie
    with locked(folder):
        if not anew:
            check_folder(folder, plan)
        yield


def _compare(plan: Plan, folder: Path, overwrite: bool) -> dict[str, Any]:
    from diffguide.pipelines.handle import guide
    from diffguide.pipelines.loading import load_pipeline
    from diffguide.pipelines.sampling import call_arguments
    from diffguide.pipelines.schedulers import make_scheduler

    from .measures import load_networks, make_measures, measure_reference
    from .report import write_report
    from .results import compute_results, write_results
    from .sampler import request_of, rule_of, try_batch
    from .table import measured_table

    processes = Processes(plan.device)
    device = processes.device(plan.device)
    extractors, seen = load_networks(plan, device)
    pipe = load_pipeline(plan.model, dtype=plan.dtype, device=device, progress_bar=False)
    for cell in plan.cells:  # a rule that cannot act in the pipeline should not cost the measuring of a reference
        rule = rule_of(plan, cell)
        call_arguments(pipe, rule, request_of(plan, cell, [0]))
        if cell.scheduler:
            make_scheduler(cell.scheduler, pipe.scheduler)
        if rule is not None:
            guide(pipe, rule).remove()
    references = measure_reference(plan, extractors, device) if processes.main else {}
    measures = make_measures(plan.metrics, extractors, seen)
    if processes.main and (overwrite or not has_begun(folder)):
        if has_begun(folder):  # whatever can be known to be wrong should not cost an earlier run
            print("diffguide: the first batch is tried, then the earlier comparison is removed", file=sys.stderr)
            try_batch(pipe, plan, measures)
        clear_folder(folder)
    processes.wait()
    store = run_plan(plan, folder, pipe, measures, extractors, seen, processes)
    results: dict[str, Any] = {}
    if processes.main:
        where = str(pipe._execution_device)
        table = measured_table(store, references, where if where.startswith("cuda") else "cpu")
        results = compute_results(store, table, references)
        write_results(store, results, table)
        write_report(store.folder)
    processes.wait()
    return results


def _list_of(name: str, values: Any, check: Callable[[str], Any]) -> list[Any]:
    """The values as `check` has them, of schedulers None, too; [] for None. UserError: one value in place of a list."""
    if values is None:
        return []
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"{name} is a list, not {values!r}")
    values = list(values)
    wrong = [value for value in values if not isinstance(value, (str, Real, NoneType))]
    if wrong:
        raise UserError(f"{name} is a list of names or numbers, not of {type(wrong[0]).__name__}")
    return [value if value is None and name == "scheduler" else check(str(value)) for value in values]


def _usual(embedded: bool, reference: bool, reward: bool) -> list[str]:
    burning = ["clipping", "saturation", "contrast"]
    return ["fid"] * reference + ["clip_score"] * embedded + ["reward"] * reward + burning
