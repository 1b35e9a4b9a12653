"""Requests for one completion, as vLLM takes them token by token, and a reading of the answers that trusts nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.policy import Sampling
from genrl_graph.messages import short
from genrl_graph.nodes.policy.compute.stop_strings import Decode, StopStrings
from genrl_graph.store.strict_json import bounded_json

LEAST_LOGPROB, MOST_LOGPROB = -110.0, 1e-3
"""Bounds of log-probs. A softmax in float32 gives no token a chance below exp(-104), and vLLM writes NaN as -9999.
Rounding may leave log-probs slightly above 0."""
BYTES_AROUND, BYTES_PER_TOKEN = 2**14, 512
"""Bound of an answer: ids and log-probs of a token take about 150 bytes, those of a prompt token about 8."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One completion to sample: a prompt, a seed, and how to sample."""

    prompt: NDArray[np.int32]
    seed: int
    sampling: Sampling

    @property
    def max_bytes(self) -> int:
        """The bytes that an answer may have."""
        return BYTES_AROUND + BYTES_PER_TOKEN * (len(self.prompt) + self.sampling.max_new_tokens)


@dataclass(frozen=True, slots=True)
class Answered:
    """A completion as an engine sampled it: ids and log-probs of shape (tokens,), and stop or length."""

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids that completions consist of, those that end them, and the text of ids."""

    size: int
    unknown: frozenset[int]
    ends: Sequence[int]
    silent: frozenset[int]
    decode: Decode


class WrongAnswer(Exception):
    """Raised for an answer that cannot be what was asked for; nothing of it is used."""


class StaleAnswer(Exception):
    """Raised for an answer that other weights gave than those that the server was given last."""


def request_of(asked: Asked, *, model: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the body of a request; it sets all that a server would otherwise take from the model's own defaults."""
    sampling = asked.sampling
    params = {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": asked.seed,
        "max_tokens": sampling.max_new_tokens,
        "stop": list(sampling.stop),
        "stop_token_ids": list(vocabulary.ends),
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": bool(sampling.stop),
        "skip_special_tokens": False,
    }
    if vocabulary.unknown:
        params["logit_bias"] = {str(id): -100.0 for id in sorted(vocabulary.unknown)}
    return {
        "model": model,
        "token_ids": asked.prompt.tolist(),
        "return_token_ids": True,
        "sampling_params": params,
    }


def read_answer(content: bytes, asked: Asked, *, label: str, model: str, vocabulary: Vocabulary) -> Answered:
    """Return the completion in an answer.

    Raises `StaleAnswer` if other weights than `label` sampled it, and `WrongAnswer` if it is not what was asked for.
    """
    match _body(content):
        case {"choices": [{"token_ids": list(ids), "logprobs": {"content": list(scored)}, **rest}], **around}:
            pass
        case _:
            raise WrongAnswer("no completion in tokens with their log-probs")
    _check_prompt(around.get("prompt_token_ids"), asked.prompt)
    served = around.get("model")
    if served is not None and served != model:
        raise WrongAnswer(f"a completion of model {short(served)}; {model!r} was asked for")
    _check_ids(ids, asked, vocabulary)
    logprobs = _logprobs(ids, scored)
    _check_versions(rest.get("weight_versions"), len(ids), label)
    return _ended(ids, logprobs, asked, vocabulary, said=rest.get("finish_reason"))


def _check_prompt(answered: Any, prompt: NDArray[np.int32]) -> None:
    """Raise unless the engine completed the ids that it was sent."""
    if answered != prompt.tolist():
        what = "does not say which prompt it completed" if answered is None else "completed other ids than it was sent"
        raise WrongAnswer(f"it {what}; does it tokenise prompts again?")


def _check_ids(ids: list[Any], asked: Asked, vocabulary: Vocabulary) -> None:
    most = asked.sampling.max_new_tokens
    if not 0 < len(ids) <= most:
        raise WrongAnswer(f"{len(ids)} tokens; 1 to {most} were asked for")
    for at, id in enumerate(ids):
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < vocabulary.size:
            raise WrongAnswer(f"token {at} has the id {short(id)}; the policy has {vocabulary.size} ids")
        if id in vocabulary.unknown:
            raise WrongAnswer(f"token {at} has the id {id}, which the tokenizer does not know")


def _logprobs(ids: list[int], scored: list[Any]) -> NDArray[np.float32]:
    """Return the log-probs of the sampled tokens."""
    if len(scored) != len(ids):
        raise WrongAnswer(f"log-probs of {len(scored)} tokens for {len(ids)} tokens")
    values = []
    for at, (id, entry) in enumerate(zip(ids, scored, strict=True)):
        match entry:
            case {"token_id": int(named), "logprob": value}:
                pass
            case _:
                raise WrongAnswer(f"no log-prob of token {at}")
        if named != id:
            raise WrongAnswer(f"the log-prob of id {named} for token {at}, whose id is {id}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not LEAST_LOGPROB <= value <= MOST_LOGPROB:  # NaN is neither
            raise WrongAnswer(f"the log-prob {short(value)} of token {at}")
        values.append(value)
    return np.asarray(values, np.float32)


def _check_versions(spans: Any, tokens: int, label: str) -> None:
    """Raise unless the spans say that the weights of this label sampled all tokens."""
    if spans is None:
        raise WrongAnswer("no weight_versions of its tokens; update vLLM to 0.32 or later")
    covered = 0
    for span in spans if isinstance(spans, list) else [spans]:
        match span:
            case {"version": str(version), "start": int(start), "end": int(end)} if start == covered:
                covered = end
            case _:
                raise WrongAnswer(f"weight_versions {short(spans)}")
        if version != label:
            raise StaleAnswer(version)
    if covered != tokens:
        raise WrongAnswer(f"weight_versions of {covered} tokens for {tokens} tokens")


def _ended(
    ids: list[int], logprobs: NDArray[np.float32], asked: Asked, vocabulary: Vocabulary, *, said: Any
) -> Answered:
    """Return the completion up to its end token or stop string.

    Raises `WrongAnswer` if it ends elsewhere, or not as the server said.
    """
    sampling = asked.sampling
    last = _end(ids, sampling.stop, vocabulary)
    finish_reason = "length" if last is None else "stop"
    # A server may decode the text of a stop string otherwise than the policy, which decides.
    if said != finish_reason and not (sampling.stop and said in ("stop", "length")):
        raise WrongAnswer(f"finish_reason {short(said)} for {len(ids)} tokens, which end by {finish_reason}")
    if last is None:
        if len(ids) < sampling.max_new_tokens:
            raise WrongAnswer(f"{len(ids)} tokens of {sampling.max_new_tokens}, which end without an end token")
        return Answered(np.asarray(ids, np.int32), logprobs, finish_reason)
    if last + 1 < len(ids) and ids[last] in vocabulary.ends:
        raise WrongAnswer(f"tokens after the end token {ids[last]}")
    return Answered(np.asarray(ids[: last + 1], np.int32), logprobs[: last + 1], finish_reason)


def _end(ids: Sequence[int], stop: Sequence[str], vocabulary: Vocabulary) -> int | None:
    """Return the position of the first end token, or of the token with which a stop string is complete."""
    ends: Collection[int] = frozenset(vocabulary.ends)
    strings = StopStrings(stop, vocabulary.decode, rows=1, silent=vocabulary.silent) if stop else None
    for at, id in enumerate(ids):
        if id in ends or (strings is not None and strings.ends(0, id)):
            return at
    return None


def read_checksums(content: bytes) -> Mapping[str, str]:
    """Return the checksums of the weights in an engine by name; raises `WrongAnswer` if the answer has none."""
    match _body(content):
        case {"checksums": dict(checksums)} if checksums and all(isinstance(one, str) for one in checksums.values()):
            return checksums
    raise WrongAnswer("no checksums of its weights")


def read_model(content: bytes) -> str:
    """Return the name under which a server has its model; raises `WrongAnswer` if the answer names none."""
    match _body(content):
        case {"data": [{"id": str(name)}, *_]}:
            return name
    raise WrongAnswer("no list of models")


def _body(content: bytes) -> Any:
    try:
        return bounded_json(content)
    except ValueError as error:
        raise WrongAnswer(f"no JSON: {short(str(error))}") from error
