"""`policy.endpoint`: a model behind an OpenAI-compatible API, as a frozen policy in any seat."""

from typing import ClassVar

from pydantic import Field, JsonValue, field_validator

from genrl_graph.contract.node import PolicyCarry
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.nodes.endpoint.client import BaseUrl, Concurrency, Retries, RetryWait, TrySeconds, key_variable

SET_HERE = ("messages", "model", "n", "stream", "temperature", "top_p", "max_tokens", "stop", "seed")


class EndpointCarry(PolicyCarry, name="endpoint"):
    """A `model` behind an API of chat completions: an opponent, a critic, a judge or a teacher that does not learn.

    It gets the chat of each prompt as messages, with the sampling params of the node that asks. Its rows have text, but
    no token ids and no log-probs, so that no update can read them. A request that fails for a while is tried again; one
    that fails for good is a failed row or episode, with the reason, and the run goes on. Replies are stored with their
    rows: a resumed run does not ask for them again.
    """

    untrainable: ClassVar[str] = "which gives text without token ids: updates can neither train it nor read its rows"

    endpoint: BaseUrl = Field(description="base URL of an OpenAI-compatible API, such as https://host/v1")
    model: str = Field(min_length=1, description="name under which the endpoint serves the model")
    api_key_env: str | None = Field(
        default=None, description="environment variable of the API key, ENDPOINT_...; null: no key"
    )
    request: dict[str, JsonValue] = Field(
        default={}, description="further keys of the request body; null removes one, such as {seed: null}"
    )
    timeout_s: TrySeconds = 60.0
    call_timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="seconds for all requests that a node sends at once, waits and retries included",
    )
    retries: Retries = 3
    retry_wait_s: RetryWait = 1.0
    concurrency: Concurrency = 8

    _has_prefix = field_validator("api_key_env")(key_variable("ENDPOINT_"))

    @field_validator("request")
    @classmethod
    def _keeps_own_keys(cls, request: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name, value in request.items():
            if name in SET_HERE and not (value is None and name not in ("messages", "model")):
                raise ValueError(f"{name!r} is set by the node that asks; leave it out, or set it to null")
        return request

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """Return the policy, without a request; raises `ParamError` if the API key is not in the environment."""
        from genrl_graph.nodes.endpoint.policy import EndpointPolicy

        return EndpointPolicy(name, self)

    def dry(self, name: str, *, seed: int) -> TextPolicy:
        """Return a stand-in for dry play: a tiny random model whose replies are canned."""
        from genrl_graph.nodes.policy.loading.stub import stub_policy

        return stub_policy(name, seed=seed)
