"""The training loops in several processes, and where a kill may leave their checkpoints."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

TRAINER = Path(__file__).parents[2] / "examples" / "train_lcd"
SCRIPT = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
import torch
from accelerate import Accelerator
from loop import run

class Student(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.trained = [self.weight]
    def forward(self, x):
        return (self.weight * x).sum()
    def average(self, decay): pass
    def state_dict_of_average(self): return {"weight": self.weight.detach().clone()}
    def load_average(self, state): pass
    def save(self, folder): pass

accelerator, student, proxy = Accelerator(cpu=True), Student(), torch.nn.Linear(4, 1, bias=False)
torch.nn.init.ones_(proxy.weight)

def step(forward, generator):
    x, y = torch.randn(2, 4, generator=generator)
    return forward(x) + 10 * proxy(y).sum() ** 2, {}

output = Path(sys.argv[2])
args = SimpleNamespace(
    steps=int(sys.argv[3]), warmup=1, decay=0.1, learning_rate=0.1, weight_decay=0.0, output=output, log_every=1,
    seed=0, max_grad_norm=1.0, ema=0.9, save_minutes=0 if accelerator.process_index else 1e9,
)
run(accelerator, student, step, args, proxy, 0.1)
weights = student.weight.tolist() + proxy.weight.flatten().tolist()
(output / f"weights{accelerator.process_index}.json").write_text(json.dumps(weights))
"""


@pytest.fixture
def train(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(output, steps, processes):
        launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
        words = [sys.executable, *launch, script, TRAINER, output, steps]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads((output / f"weights{rank}.json").read_text()) for rank in range(processes)]

    return run


@pytest.mark.slow
def test_processes_keep_the_same_weights_and_save_together(train, tmp_path):
    """Whose clocks disagree: one would save at every step, the main one only at the end."""
    first, second = train(tmp_path / "run", 8, 2)
    assert first == second
    assert len({round(weight, 3) for weight in first}) > 2
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "run" / "checkpoint.old")  # a kill between the two names
    first, second = train(tmp_path / "run", 12, 2)
    assert first == second
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


def test_the_random_numbers_of_a_step_are_two_streams(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINER.parent))
    import checkpointing

    streams = {}
    for step in (1, 0, 1):
        own = torch.rand(4, generator=checkpointing.generator_of(7, step, 0))
        assert torch.equal(streams.setdefault(step, torch.stack([own, torch.rand(4)])), streams[step])
    assert len(torch.cat([*streams.values()]).flatten().unique()) == 16


def test_the_loop_of_the_embedded_models_keeps_to_its_device(tmp_path, monkeypatch):
    """Of one without memory, which mixes with others as little as a GPU does."""
    monkeypatch.syspath_prepend(str(TRAINER.parent / "train_emoji"))
    sys.modules.pop("loop", None)
    import loop
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    class Elsewhere(Accelerator):
        device = torch.device("meta")

    made, adamw = [], torch.optim.AdamW
    monkeypatch.setattr(loop, "Accelerator", Elsewhere)
    monkeypatch.setattr(loop, "precision", lambda: "no")
    monkeypatch.setattr(loop.checkpointing, "save", lambda *given: None)
    monkeypatch.setattr(loop.Progress, "update", lambda progress, loss, accelerator: setattr(progress, "step", 2))
    monkeypatch.setattr(torch.optim, "AdamW", lambda given, fused, **options: adamw(given, **options))
    for name in ("store", "restore"):
        monkeypatch.setattr(loop.EMAModel, name, lambda ema, parameters: None)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        objective = torch.nn.Linear(4, 1)
        objective.forward = lambda x: (objective.weight * x).sum()
        options = {"steps": 2, "learning_rate": 0.1, "decay": 0.2, "save_minutes": 9, "batch_size": 2, "seed": 0}
        args = SimpleNamespace(**options, output=tmp_path)
        batch = lambda generator: {"x": torch.randn(2, 4, generator=generator)}  # noqa: E731
        loop.train(objective, batch, args, lambda done: made.append(done.weight.device.type))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
        AcceleratorState._reset_state(True)
        sys.modules.pop("loop", None)
    assert made == ["meta", "meta"]


def test_what_a_kill_between_two_names_leaves_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINER.parent))
    import checkpointing
    from accelerate import Accelerator

    accelerator, checkpoint = Accelerator(cpu=True), tmp_path / "checkpoint"
    checkpointing.recover(accelerator, checkpoint)  # nothing there yet
    checkpointing.save(accelerator, checkpoint)
    (checkpoint / "mark").write_text("first")
    checkpoint.rename(tmp_path / checkpointing.OLD)
    (tmp_path / checkpointing.TEMPORARY).mkdir()  # half written
    checkpointing.recover(accelerator, checkpoint)
    assert (checkpoint / "mark").read_text() == "first"
    checkpointing.save(accelerator, checkpoint)
    assert not (checkpoint / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
