"""A stand-in for vLLM's HTTP calls on loopback: it samples with a small model, and can be told to misbehave."""

import contextlib
import hashlib
import json
import select
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal

import torch
from local_server import LocalServer
from peft import PeftModel
from transformers import AutoModelForCausalLM

Answer = Any
"""The JSON of an answer."""

LOADING = threading.Lock()
"""Held while transformers loads a model: meanwhile it replaces a method of all models, and of two threads that do so at
once one may leave the replacement behind, after which no model of the process ties its embeddings."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer with another status, or none at all (`hang`, `drop`)."""

    status: int = 500
    act: Literal["answer", "hang", "drop"] = "answer"


class EngineServer(LocalServer):
    """A server with the calls of vLLM 0.32 that the engine uses, and a real model of a folder behind them.

    `twist(path, body, answer)` may return another answer, or a `Fault`.
    """

    def __init__(self, folder: Path) -> None:
        self.version = "default"
        self.model: Any = None
        self.adapters: dict[str, Any] = {}
        self.seen: list[tuple[str, Mapping[str, Any]]] = []
        self.twist: Callable[[str, Mapping[str, Any], Answer], Answer | Fault] = lambda path, body, answer: answer
        self.ignores_weights = False
        self._folder = folder
        self._lock = threading.Lock()
        self.load(folder)
        super().__init__(_handler(self))

    def paths(self) -> list[str]:
        """The paths of the requests so far."""
        return [path for path, _ in self.seen]

    def load(self, folder: Path) -> None:
        """Load the model of a folder."""
        with LOADING:
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def restart(self) -> None:
        """Begin again with the first weights, as a server does that another program starts anew."""
        self.load(self._folder)
        self.version = "default"
        self.adapters.clear()

    def answer(self, path: str, body: Mapping[str, Any]) -> Answer | Fault:
        """Return the answer to a request, as it leaves the server."""
        with self._lock:
            self.seen.append((path, body))
            return self.twist(path, body, self._answer(path, body))

    def _answer(self, path: str, body: Mapping[str, Any]) -> Answer | Fault:
        match path:
            case "/v1/models":
                return {"data": [{"id": "base"}]}
            case "/collective_rpc":
                assert body["method"] == "reload_weights"
                if not self.ignores_weights:
                    self.load(Path(body["kwargs"]["weights_path"]))
                return {"results": [None]}
            case "/update_weight_version":
                self.version = body["new_version"]
                return {"success": True}
            case "/weight_checker":
                named = self.model.named_parameters()
                return {"checksums": {f"dp0:tp0:{name}": _checksum(weight) for name, weight in named}}
            case "/v1/load_lora_adapter":
                with LOADING:
                    base = AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.float32)
                    adapted = PeftModel.from_pretrained(base, body["lora_path"])
                self.adapters[body["lora_name"]] = adapted.eval()
                return "Success"
            case "/v1/unload_lora_adapter":
                del self.adapters[body["lora_name"]]
                return "Success"
            case "/reset_prefix_cache":
                return {"success": True}
            case "/inference/v1/generate":
                return self._generate(body)
        return Fault(404)

    def _generate(self, body: Mapping[str, Any]) -> Answer | Fault:
        model = self.model if body["model"] == "base" else self.adapters.get(body["model"])
        if model is None:
            return Fault(404)
        ids, logprobs, reason = _sampled(model, body["token_ids"], body["sampling_params"])
        scored = [{"token_id": id, "logprob": value, "rank": 1} for id, value in zip(ids, logprobs, strict=True)]
        choice = {
            "index": 0,
            "finish_reason": reason,
            "token_ids": ids,
            "logprobs": {"content": scored},
            "weight_versions": [{"version": self.version, "start": 0, "end": len(ids)}],
        }
        return {"model": body["model"], "prompt_token_ids": body["token_ids"], "choices": [choice]}


def _sampled(model: Any, prompt: list[int], params: Mapping[str, Any]) -> tuple[list[int], list[float], str]:
    """Sample one completion token by token, as the params say."""
    rng = torch.Generator().manual_seed(params["seed"])
    ids, logprobs = list(prompt), []
    for _ in range(params["max_tokens"]):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        for id, bias in params.get("logit_bias", {}).items():
            logits[int(id)] += bias
        seen = torch.tensor(sorted(set(ids)))
        penalty = params["repetition_penalty"]
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        scores = (logits / (params["temperature"] or 1.0)).log_softmax(-1)
        greedy = params["temperature"] == 0
        token = int(scores.argmax()) if greedy else int(torch.multinomial(scores.exp(), 1, generator=rng))
        ids.append(token)
        logprobs.append(float(scores[token]))
        if token in params["stop_token_ids"]:
            return ids[len(prompt) :], logprobs, "stop"
    return ids[len(prompt) :], logprobs, "length"


def _checksum(weight: torch.Tensor) -> str:
    return hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()


def _handler(server: EngineServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._reply(json.loads(self.rfile.read(length) or b"{}"))

        def _reply(self, body: Mapping[str, Any]) -> None:
            answer = server.answer(self.path, body)
            fault = answer if isinstance(answer, Fault) else None
            if fault is not None and fault.act == "hang":
                select.select([self.connection], [], [], 30.0)  # until the client has gone
            if fault is not None and fault.act != "answer":
                self.close_connection = True
                return
            content = answer if isinstance(answer, bytes) else json.dumps({} if fault else answer).encode()
            self.send_response(200 if fault is None else fault.status)
            self.send_header("Content-Length", str(len(content)))
            with contextlib.suppress(ConnectionError):  # the client has gone
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
