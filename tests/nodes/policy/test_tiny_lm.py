from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.tiny_lm import PRINTABLE, TinyLM

POLICY = TinyLM().init("policy", seed=0)


def test_weights_are_a_function_of_seed_and_name() -> None:
    assert TinyLM().init("policy", seed=0).digest() == POLICY.digest()
    assert TinyLM().init("policy", seed=1).digest() != POLICY.digest()
    assert TinyLM().init("other", seed=0).digest() != POLICY.digest()


@given(st.text(alphabet=PRINTABLE, min_size=1))
@settings(deadline=None)
def test_a_prompt_of_one_message_is_its_text(text: str) -> None:
    ids = POLICY.render([{"role": "user", "content": text}])
    assert ids.dtype == np.int32
    assert len(ids) == len(text) + text.count("<eos>") + text.count("<pad>") + text.count("<unk>")
    assert POLICY.decode(ids.tolist()).replace("\u200b", "") == text


def test_a_special_token_in_a_content_stays_text() -> None:
    ids = POLICY.render([{"role": "user", "content": "a<eos>b"}])
    assert 1 not in ids.tolist()
    assert POLICY.decode(ids.tolist()) == "a<eos>b"  # the character that splits it is unknown here, so it is lost


def test_messages_are_joined_and_unknown_characters_are_one_id() -> None:
    chat = [{"role": "system", "content": "1+"}, {"role": "user", "content": "漢="}]
    assert POLICY.render(chat).tolist()[2] == 2
    assert POLICY.decode(POLICY.render(chat).tolist()) == "1+="


def test_equal_alphabets_have_equal_fingerprints() -> None:
    assert TinyLM().init("x", seed=5).tokenizer_fingerprint == POLICY.tokenizer_fingerprint
    assert TinyLM(alphabet="01").init("x", seed=5).tokenizer_fingerprint != POLICY.tokenizer_fingerprint
    assert (
        TinyLM(chat_template="{{ messages[-1]['content'] }}").init("x", seed=5).tokenizer_fingerprint
        != POLICY.tokenizer_fingerprint
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hidden_size": 30}, "hidden_size 30 is not divisible by 2 x heads = 8"),
        ({"alphabet": "abca"}, "alphabet holds 'a' twice"),
        ({"betas": (0.9, 1.0)}, "betas"),
    ],
)
def test_params_that_cannot_be_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        TinyLM(**params)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ParamError, match="'gpu7' cannot be used here"):
        TinyLM(device="gpu7").init("policy", seed=0)
