"""The small transformer as a causal model is the small transformer."""

import pytest

torch = pytest.importorskip("torch")

from byheart.language.causal import Causal  # noqa: E402
from byheart.language.model import ModelConfig, Transformer, draw  # noqa: E402


def test_it_says_what_the_transformer_says_and_is_a_copy():
    config = ModelConfig(n_layers=2, width=16, n_heads=2, context=12)
    transformer = Transformer(config, 30, draw(config, 30, seed=1))
    own = Causal(transformer)
    inputs = torch.randint(0, 31, (3, 9), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(own(input_ids=inputs, attention_mask=torch.ones_like(inputs)), transformer(inputs), atol=1e-6)
    before = transformer(inputs)
    with torch.no_grad():
        for values in own.parameters():
            values.zero_()
    assert torch.equal(transformer(inputs), before)
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in transformer.parameters())
