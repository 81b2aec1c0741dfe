import json
import shutil
import subprocess

import numpy as np
import pytest

from byheart.page import asset
from byheart.page.encoding import decode, encode, quantise, to_script_json

ARRAYS = {
    "i2": np.array([-32_768, -1, 0, 32_767]),
    "u2": np.array([0, 1, 65_535]),
    "u4": np.array([0, 4_294_967_295]),
    "f4": np.array([0.1, -1e-30, 3e30], dtype=np.float32),
}


@pytest.mark.parametrize("dtype", ARRAYS)
def test_decode_gives_back_what_was_encoded(dtype):
    np.testing.assert_array_equal(decode(encode(ARRAYS[dtype], dtype)), ARRAYS[dtype].astype(np.float64))


def test_bytes_are_little_endian_whatever_the_array_is():
    assert (
        encode(np.array([1], dtype=">u2"), "u2")
        == encode(np.array([1], dtype="<u2"), "u2")
        == {
            "type": "u2",
            "data": "AQA=",
        }
    )


@pytest.mark.parametrize("value", [-1, 65_536])
def test_an_integer_out_of_range_is_refused_not_wrapped(value):
    with pytest.raises(ValueError, match=r"accepted: 0 to 65535"):
        encode(np.array([value]), "u2")


@pytest.mark.parametrize("size", [1e-20, 1.0, 5e3])
def test_quantised_values_are_off_by_half_a_step_at_most(size):
    values = size * np.random.default_rng(0).normal(size=(500, 2))
    error = np.abs(decode(quantise(values)) - values.ravel()).max()
    assert 0 < error <= np.abs(values).max() / 65_534 * (1 + 1e-9)


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.zeros((0, 2))])
def test_quantising_nothing_but_zeros(values):
    np.testing.assert_array_equal(decode(quantise(values)), values.ravel())


def test_json_cannot_close_its_script():
    hostile = {"</script><script>alert(1)</script>": "<!-- </SCRIPT>"}
    text = to_script_json(hostile)
    assert "<" not in text
    assert json.loads(text) == hostile


@pytest.mark.skipif(shutil.which("node") is None, reason="the page's own decoder needs node to run here")
def test_the_page_decodes_what_python_encoded():
    encoded = [encode(array, dtype) for dtype, array in ARRAYS.items()]
    encoded.append(quantise(np.random.default_rng(0).normal(size=100)))
    script = str(asset("page/figures.js"))
    script += f"\nconsole.log(JSON.stringify(decodeAll({json.dumps(encoded)}).map((values) => [...values])));"
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True, timeout=30)
    for from_page, one in zip(json.loads(done.stdout), encoded, strict=True):
        np.testing.assert_array_equal(from_page, decode(one))
