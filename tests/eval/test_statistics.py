import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from diffguide.eval.statistics import Moments, Statistics, check_compatible, load_statistics, save_statistics
from diffguide.pipelines.errors import UserError


def summed(features, size):
    moments = Moments()
    for part in features.split(size):
        moments.update(part)
    return moments


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(130, 20) * torch.linspace(0.01, 3, 20) + 1000  # far from 0, where sums of squares cancel


def test_moments_are_numpys_and_do_not_depend_on_the_batch_size(features):
    exact = features.double().numpy()
    for size in (1, 64, 130):
        moments = summed(features, size)
        np.testing.assert_allclose(moments.mean.numpy(), exact.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance.numpy(), np.cov(exact, rowvar=False), rtol=1e-10, atol=1e-13)


def test_what_is_saved_is_read_back_and_by_plain_numpy(tmp_path, features):
    statistics = summed(features, 32).statistics("net", "abc", "clean")
    save_statistics(tmp_path / "s.npz", statistics)
    back = load_statistics(tmp_path / "s.npz")
    assert (back.n, back.extractor, back.weights_hash, back.resize) == (130, "net", "abc", "clean")
    assert torch.equal(back.mu, statistics.mu)
    with np.load(tmp_path / "s.npz") as plain:
        assert plain["mu"].dtype == plain["sigma"].dtype == np.float64
        np.testing.assert_array_equal(plain["sigma"], statistics.sigma.numpy())
    save_statistics(tmp_path / "t.npz", statistics)
    assert (tmp_path / "t.npz").read_bytes() == (tmp_path / "s.npz").read_bytes()


def test_files_of_other_tools_have_no_block_and_fit_any_network(tmp_path):
    np.savez(tmp_path / "other.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3))
    other = load_statistics(tmp_path / "other.npz")
    assert other.extractor is None
    assert other.mu.dtype == torch.float64
    check_compatible(other, Statistics(torch.zeros(3), torch.eye(3), 9, "net", "abc", "clean"))


@pytest.mark.parametrize("change", [{"extractor": "other"}, {"weights_hash": "def"}, {"resize": "bilinear"}])
def test_a_mismatch_is_refused_with_both_sides_named(change):
    known = {"n": 9, "extractor": "net", "weights_hash": "abc", "resize": "clean"}
    one, other = (Statistics(torch.zeros(3), torch.eye(3), **known | extra) for extra in ({}, change))
    with pytest.raises(UserError) as error:
        check_compatible(one, other)
    ((name, value),) = change.items()
    assert value in str(error.value)
    assert known[name] in str(error.value)


def test_features_that_are_not_finite_are_refused(features):
    features[7, 3] = float("nan")
    with pytest.raises(UserError, match="net gave features that are not finite"):
        summed(features, 32).statistics("net")


class Harmful:
    def __reduce__(self):
        return open, ("owned", "w")


def lying_header(path):
    """A header that promises 100 GB."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (110000, 110000), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("sigma.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        file.writestr("mu.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


BROKEN = {
    "text": lambda p: p.write_text("hello"),
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: (np.savez(p, mu=np.zeros(9), sigma=np.eye(9)), p.write_bytes(p.read_bytes()[:500])),
    "pickle": lambda p: np.savez(p, mu=np.array([Harmful()], dtype=object), sigma=np.eye(1)),
    "pickled block": lambda p: np.savez(p, mu=np.zeros(2), sigma=np.eye(2), diffguide=np.array([Harmful()])),
    "bare pickle": lambda p: p.write_bytes(pickle.dumps(Harmful())),
    "lying header": lying_header,
    "no sigma": lambda p: np.savez(p, mu=np.zeros(3)),
    "shapes": lambda p: np.savez(p, mu=np.zeros(3), sigma=np.eye(4)),
    "scalar mu": lambda p: np.savez(p, mu=np.zeros(()), sigma=np.eye(1)),
    "integers": lambda p: np.savez(p, mu=np.zeros(3, int), sigma=np.eye(3)),
    "nan": lambda p: np.savez(p, mu=np.full(3, np.nan), sigma=np.eye(3)),
    "not symmetric": lambda p: np.savez(p, mu=np.zeros(2), sigma=np.array([[1.0, 2], [0, 1]])),
    "negative variance": lambda p: np.savez(p, mu=np.zeros(2), sigma=np.diag([1.0, -1.0])),
    "block": lambda p: np.savez(p, mu=np.zeros(2), sigma=np.eye(2), diffguide=np.array("{")),
    "block of other types": lambda p: np.savez(
        p, mu=np.zeros(2), sigma=np.eye(2), diffguide=np.array(json.dumps({"n": "many"}))
    ),
    "images": lambda p: np.savez(p, arr_0=np.zeros((2, 4, 4, 3), np.uint8)),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_statistics_is_one_clear_line(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "bad.npz")
    with pytest.raises(UserError, match=r"bad\.npz") as error:
        load_statistics(tmp_path / "bad.npz")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()
