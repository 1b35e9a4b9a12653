"""Send an outbox: at least once, counted once.

Before anything is sent, the contract is asked what it would say of the call. That answer decides, not the receipt: a
call that it has "already" is done, whoever sent it and whatever the endpoint said of it. A signed transaction is on the
disk before it is sent, so after a crash the same one is sent again, which its nonce lets in once.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from genrl_graph.errors import ChainError
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import NOBODY, Call, ContractClient, Verdict
from genrl_graph.runners.chain.endpoint import ChainDown, Endpoint, Refused, Reverted
from genrl_graph.runners.chain.proxy import Proxy
from genrl_graph.runners.chain.sending import await_receipt, empty_wallet, fees_of
from genrl_graph.runners.chain.wallet import Wallet
from genrl_graph.store.outbox import Attempt, Entry, Outbox

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
A_PASS = 64  # entries that are looked at before the first one is looked at again
GAS_MARGIN = 1.25
NO_DRAIN_S = 1.0

CallOf = Callable[[Entry], Call]


class Sender:
    """Works through an outbox in passes; each pass looks at the open entries in order."""

    def __init__(
        self,
        outbox: Outbox,
        client: ContractClient,
        submitter: Wallet | Proxy,
        call_of: CallOf,
        *,
        on_later: str = "wait",
        stuck_s: float = 120.0,
        leads: bool = False,
    ) -> None:
        self._outbox, self._client, self._submitter, self._call_of = outbox, client, submitter, call_of
        self._on_later, self._stuck_s, self._leads = on_later, stuck_s, leads
        self._since: dict[str, float] = {}  # when the newest transaction of an entry was sent, or found at start
        self.retry_after_s = 0.0
        self.ends = threading.Event()  # set to end a pass early

    @property
    def _endpoint(self) -> Endpoint:
        return self._client.endpoint

    def work(self) -> bool:
        """Make one pass and return whether anything changed; where the chain cannot be used, the outbox notes why."""
        self.retry_after_s = 0.0
        try:
            moved = self._pass()
        except ChainDown as down:
            self.retry_after_s = down.retry_after_s
            self._outbox.note(str(down))
            return False
        except (ChainError, Refused) as error:
            self._outbox.note(str(error))
            return False
        self._outbox.note("")
        return moved

    def _pass(self) -> bool:
        moved, begun = False, None
        for entry in self._outbox.open_entries()[:A_PASS]:
            if self.ends.is_set():
                break
            of_round = entry.call not in ("register", "advance")
            if of_round and begun is not None and int(entry.submission.get("round", 0)) > begun:
                if entry.state == "pending":
                    self._later(entry, f"the chain is in round {begun}")
                continue
            state, reason = entry.state, entry.reason
            self._visit(entry)
            moved |= (entry.state, entry.reason) != (state, reason)
            if of_round and entry.is_open and entry.reason.startswith("InvalidRoundNumber"):
                begun = self._client.round()
        return moved

    def _visit(self, entry: Entry) -> None:
        try:
            call = self._call_of(entry)
        except (ValueError, KeyError) as error:
            return self._outbox.change(entry, "dropped", str(error))
        verdict = self._verdict(entry, call)
        if verdict.outcome == "done":
            return self._outbox.change(entry, "done", verdict.reason)
        if verdict.outcome == "refused":
            return self._outbox.change(entry, "dropped", verdict.reason)
        if verdict.outcome == "later":
            return self._later(entry, verdict.reason)
        if isinstance(self._submitter, Proxy):
            return self._submit(entry, call, self._submitter)
        return (
            self._follow(entry, call, self._submitter) if entry.attempts else self._send(entry, call, self._submitter)
        )

    def _verdict(self, entry: Entry, call: Call) -> Verdict:
        """Ask the contract; a round that has come needs no call to begin it."""
        if call.signature == abi.ADVANCE and self._client.round() >= int(entry.submission["round"]):
            return Verdict("done", "the round has begun")
        if call.signature == abi.ROOT and not self._client.has_roots:
            return Verdict("refused", "this contract takes no roots of audited rounds")
        return self._client.judge(call, self._sender_of(call))

    def _sender_of(self, call: Call) -> str:
        """Return the account that the contract sees: the wallet, or of a proxy the owner of the peer id."""
        if isinstance(self._submitter, Wallet):
            return self._submitter.address
        return self._client.eoa(str(call.arguments[-1])) or NOBODY

    def _later(self, entry: Entry, reason: str) -> None:
        if self._leads and isinstance(self._submitter, Wallet) and reason.startswith("InvalidRoundNumber"):
            self._begin_round(int(entry.submission["round"]), self._submitter)
            return
        dropped = self._on_later == "drop" and reason.startswith(("InvalidRoundNumber", "the chain is in"))
        self._outbox.change(entry, "dropped" if dropped else "pending", reason)

    def _begin_round(self, round: int, wallet: Wallet) -> None:
        """Bring a chain that nobody else leads to a round; the next pass asks again."""
        call, endpoint = Call(abi.ADVANCE, ()), self._endpoint
        while self._client.round() < round:
            transaction = self._transaction(call, endpoint.nonce(wallet.address, pending=True), wallet)
            raw, hash = wallet.sign(transaction)
            endpoint.send(raw)
            await_receipt(endpoint, hash, timeout_s=self._stuck_s)

    def _submit(self, entry: Entry, call: Call, proxy: Proxy) -> None:
        """Let a proxy submit; that the contract has it is seen in the next pass."""
        since = self._since.get(entry.key)
        if entry.state == "sent" and since is not None and time.monotonic() - since < self._stuck_s:
            return
        verdict = proxy.submit(call)
        if verdict.outcome == "refused":
            self._outbox.change(entry, "dropped", verdict.reason)
            return
        self._since[entry.key] = time.monotonic()
        self._outbox.change(entry, "sent", verdict.reason or f"{proxy.where} took it")

    def _send(self, entry: Entry, call: Call, wallet: Wallet, *, nonce: int | None = None, above: int = 0) -> None:
        """Sign a transaction, write it down, send it; `nonce` is that of one to replace, `above` the tip of it."""
        nonce = self._endpoint.nonce(wallet.address, pending=True) if nonce is None else nonce
        try:
            transaction = self._transaction(call, nonce, wallet, above=above)
        except Reverted as reverted:  # since it was asked
            self._outbox.change(entry, "pending", reverted.reason)
            return
        raw, hash = wallet.sign(transaction)
        attempt = Attempt(nonce, hash, raw.hex(), transaction["maxPriorityFeePerGas"])
        kept = [each for each in entry.attempts if each.nonce == nonce]
        self._outbox.change(entry, "sent", "waits to be mined", [*kept, attempt])
        self._since[entry.key] = time.monotonic()
        self._hand_over(entry, attempt, wallet)

    def _transaction(self, call: Call, nonce: int, wallet: Wallet, *, above: int = 0) -> dict[str, Any]:
        """Return the transaction of a call, with gas and fees; raises `Reverted`."""
        gas = self._endpoint.gas(self._client.address, call.data, sender=wallet.address)
        return {
            "to": self._client.address,
            "data": "0x" + call.data.hex(),
            "value": 0,
            "nonce": nonce,
            "gas": int(gas * GAS_MARGIN),
            "chainId": int(self._outbox.state.bound["chain_id"]),
            **fees_of(self._endpoint, above=above),
        }

    def _hand_over(self, entry: Entry, attempt: Attempt, wallet: Wallet) -> None:
        """Send a transaction that is on the disk; one that can never be mined is forgotten."""
        try:
            self._endpoint.send(bytes.fromhex(attempt.raw))
        except Refused as refused:
            text = str(refused)
            if "insufficient funds" in text.lower():
                self._outbox.change(entry, "pending", empty_wallet(self._endpoint, wallet), [])
                raise ChainError(entry.reason) from refused
            if "underpriced" in text.lower() and len(entry.attempts) > 1:  # the one that it was to replace waits on
                return
            self._outbox.change(entry, "pending", f"refused: {text}", [])

    def _follow(self, entry: Entry, call: Call, wallet: Wallet) -> None:
        """Look after a transaction that was sent: mined, replaced by another one of the wallet, stuck or dropped."""
        endpoint, newest = self._endpoint, entry.attempts[-1]
        since = self._since.setdefault(entry.key, time.monotonic())
        next_nonce = endpoint.nonce(wallet.address, pending=False)
        if next_nonce > newest.nonce:  # something with this nonce was mined, and yet the contract is open to the call
            return self._after_mined(entry, call)
        if not any(endpoint.is_known(attempt.hash) for attempt in entry.attempts):
            if endpoint.nonce(wallet.address, pending=True) < newest.nonce:  # one before it is gone: it would wait
                return self._send(entry, call, wallet)
            return self._hand_over(entry, newest, wallet)
        if time.monotonic() - since > self._stuck_s:
            return self._send(entry, call, wallet, nonce=newest.nonce, above=newest.tip)
        return None

    def _after_mined(self, entry: Entry, call: Call) -> None:
        """Free an entry whose nonce is used up, such that the next pass sends it anew, and say why it was not done."""
        receipts = [self._endpoint.receipt(attempt.hash) for attempt in entry.attempts]
        mined = next((receipt for receipt in receipts if receipt is not None), None)
        if self._verdict(entry, call).outcome == "done":  # mined between the two questions
            return self._outbox.change(entry, "done", "mined")
        if mined is None:
            reason = "replaced by another transaction of this wallet"
        elif not mined.get("status"):
            reason = "was mined, but reverted"
        elif call.signature == abi.ADVANCE:
            reason = "one more stage to begin"
        else:
            reason = "the receipt says that it is mined, but the contract does not have it"
            if time.monotonic() - self._since[entry.key] < self._stuck_s:  # a node that lags, or lies
                return self._outbox.change(entry, "sent", reason)
        return self._outbox.change(entry, "pending", reason, [])


class SenderThread:
    """Runs a sender in the background until it is closed; a chain that is down is asked less and less often."""

    def __init__(self, sender: Sender, outbox: Outbox) -> None:
        self._sender, self._outbox = sender, outbox
        self._wake = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look at the outbox now, unless the chain is down."""
        self._wake.set()

    def close(self, drain_s: float) -> bool:
        """Send what can be sent, for at most `drain_s` seconds, then end the thread.

        Returns whether it has ended: without time to drain, the answer of a slow endpoint is not awaited.
        """
        until = time.monotonic() + drain_s
        self._wake.set()
        while time.monotonic() < until and self._thread.is_alive() and self._outbox.open_entries():
            time.sleep(0.02)
        self._sender.ends.set()
        self._wake.set()
        self._thread.join(timeout=None if drain_s else NO_DRAIN_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = FIRST_PAUSE_S
        try:
            while not self._sender.ends.is_set():
                self._wake.clear()
                moved = bool(self._outbox.open_entries()) and self._sender.work()
                pause = FIRST_PAUSE_S if moved else min(2 * pause, LONGEST_PAUSE_S)
                if moved:
                    continue
                if self._outbox.state.trouble:
                    self._sender.ends.wait(max(pause, self._sender.retry_after_s))
                elif self._outbox.open_entries():
                    if self._wake.wait(pause):
                        pause = FIRST_PAUSE_S
                else:
                    pause = FIRST_PAUSE_S
                    self._wake.wait()
        except BaseException as error:  # reported by the thread of the run
            self.error = error
