"""An HTTP service that submits on the peer's behalf, so that the peer needs no wallet."""

from typing import Any

import requests

from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import Call, Verdict
from genrl_graph.runners.chain.endpoint import MAX_RETRY_AFTER_S, ChainDown, shown

MAX_ANSWER_BYTES = 1 << 16
_PATHS = {abi.REGISTER: "register-peer", abi.REWARD: "submit-reward", abi.WINNERS: "submit-winner"}


class Proxy:
    """Posts calls of one organisation; an access key in the address shows in no error."""

    def __init__(self, url: str, organisation: str, *, timeout_s: float) -> None:
        self._url, self._organisation, self._timeout_s = url.rstrip("/"), organisation, timeout_s
        self.where = shown(url)

    def submit(self, call: Call) -> Verdict:
        """Submit a call; the verdict is `open` where the proxy took it. Raises `ChainDown`."""
        if call.signature not in _PATHS:
            return Verdict("refused", f"a proxy takes no {call.name}")
        url = f"{self._url}/{_PATHS[call.signature]}"
        try:
            with requests.post(url, json=self._body(call), timeout=self._timeout_s, stream=True) as answer:
                text = answer.raw.read(MAX_ANSWER_BYTES, decode_content=True).decode(errors="replace")
                status, retry_after = answer.status_code, answer.headers.get("Retry-After", "")
        except requests.exceptions.Timeout as error:
            raise ChainDown(f"{self.where}: does not answer in time") from error
        except requests.exceptions.RequestException as error:
            raise ChainDown(f"{self.where}: cannot be reached") from error
        if status < 300:
            return Verdict("open")
        if (name := abi.named_in(text)) is not None:
            return Verdict("later", name)  # the contract is asked what it means
        wait = min(float(retry_after), MAX_RETRY_AFTER_S) if retry_after.isdecimal() else 0.0
        raise ChainDown(f"{self.where}: answers HTTP {status}", retry_after_s=wait)

    def _body(self, call: Call) -> dict[str, Any]:
        values: dict[str, Any] = {"orgId": self._organisation}
        match call.signature, call.arguments:
            case abi.REGISTER, (peer_id,):
                values |= {"peerId": peer_id}
            case abi.REWARD, (round, stage, reward, peer_id):
                values |= {"roundNumber": round, "stageNumber": stage, "reward": reward, "peerId": peer_id}
            case _, (round, winners, peer_id):
                values |= {"roundNumber": round, "winners": list(winners), "peerId": peer_id}
        return values
