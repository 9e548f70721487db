import sys

import pytest
import torch
from cases import predictions, step

from diffguide.guidance import ClassifierFreeGuidance, Trace

matplotlib = pytest.importorskip("matplotlib")


def traced(samples, steps=5, left_out=()):
    trace = Trace("ClassifierFreeGuidance(guidance_scale=4.0)")
    for index in range(steps):
        here = step(index=index)
        if index in left_out:
            trace.append(here, 1, samples, None)
            continue
        tensors = predictions((samples, 4, 8, 8), seed=index)
        trace.append(here, 2, samples, ClassifierFreeGuidance(4.0).guide(*tensors, here)[1])
    return trace


def panels(figure):
    return {axes.get_ylabel().split(",")[0]: axes for axes in figure.axes}


def test_a_line_for_each_image_holds_the_numbers_of_the_trace():
    trace = traced(3, left_out={4})
    figure = trace.plot()
    assert figure.get_suptitle() == "ClassifierFreeGuidance(guidance_scale=4.0)"
    axes = panels(figure)
    assert list(axes) == [
        "cosine of cond and uncond",
        "ratio |cond - uncond| / |uncond|",
        "L2 norm",
        "effective guidance scale",
    ]
    measures = zip(axes.values(), (["cosine"], ["ratio"], ["difference_norm", "update_norm"], ["effective_scale"]))
    for panel, names in measures:
        drawn = torch.tensor([line.get_ydata().tolist() for line in panel.lines])
        expected = torch.cat([torch.stack([getattr(record, name) for record in trace]).T for name in names])
        assert torch.allclose(drawn, expected.to(drawn), equal_nan=True)
        assert panel.get_xlabel() == "step (guided evaluation)"
        assert [line.get_xdata().tolist() for line in panel.lines] == [list(range(5))] * len(drawn)


def test_many_images_are_a_mean_and_a_band():
    trace = traced(20)
    panel = panels(trace.plot())["cosine of cond and uncond"]
    assert len(panel.lines) == 1
    cosine = torch.stack([record.cosine for record in trace])
    assert torch.allclose(torch.tensor(panel.lines[0].get_ydata()), cosine.mean(1).double(), atol=1e-6)
    heights = panel.collections[0].get_datalim(panel.transData)
    assert heights.y0 == pytest.approx(cosine.quantile(0.1, dim=1).min().item(), abs=1e-6)
    assert heights.y1 == pytest.approx(cosine.quantile(0.9, dim=1).max().item(), abs=1e-6)
    assert panel.get_legend().get_texts()[1].get_text() == "10 % to 90 % of 20 images"


@pytest.mark.parametrize(("samples", "left_out"), [(1, ()), (2, {0, 1, 2, 3, 4}), (9, {3, 4})])
def test_it_can_be_written(tmp_path, samples, left_out):
    traced(samples, left_out=left_out).plot().savefig(tmp_path / "trace.png", dpi=50)
    assert (tmp_path / "trace.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'diffguide\[plot\]'"):
        traced(1).plot()


def test_an_empty_trace_says_so():
    with pytest.raises(ValueError, match="the trace is empty"):
        Trace().plot()
