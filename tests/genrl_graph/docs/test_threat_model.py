"""The numbers of the page on threats are those of the code."""

from code_blocks import PAGES

from genrl_graph import messages
from genrl_graph.graph_file import document
from genrl_graph.nodes.endpoint import client
from genrl_graph.nodes.endpoint.policy import MOST_BYTES
from genrl_graph.nodes.games import text_game
from genrl_graph.nodes.games.openenv import server, session
from genrl_graph.nodes.games.openenv.params import OpenEnvParams
from genrl_graph.nodes.policy.endpoint import EndpointCarry
from genrl_graph.nodes.policy.engine import replies
from genrl_graph.nodes.policy.engine import server as engine_server
from genrl_graph.nodes.policy.engine_params import VllmEngine, VllmLaunch
from genrl_graph.nodes.policy.loading import checked_folder, checked_model
from genrl_graph.nodes.reward.judge import Judge
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.templates import rendering
from genrl_graph.nodes.worker import worker_output
from genrl_graph.runners.loop import signals
from genrl_graph.store import strict_json


def default(node: type, name: str) -> float:
    value = node.model_fields[name].default  # type: ignore[attr-defined]
    assert isinstance(value, int | float)
    return value


def test_its_numbers_are_those_of_the_code() -> None:
    page = " ".join((PAGES / "threat_model.md").read_text().split())
    rendered = f"{rendering.TIMEOUT_S:g} s, {rendering.MEMORY_BYTES >> 20} MiB and {rendering.MOST_CHARACTERS:,}"
    for text in (
        f"nesting | {document.MAX_DEPTH} levels",
        f"aliases | {document.MAX_COPIES:,} repeated values",
        f"a template | {rendering.MOST_SOURCE:,} characters",
        f"rendering a template | {rendered} characters",
        f"`timeout_s`, {default(RegexReward, 'timeout_s'):g} s, for the rows of a peer",
        f"{messages.MOST_COMPARISONS:,} compared names, then {messages.COMPARISONS_A_SECOND:,} a second",
        f"a JSON file | {checked_folder.MOST_JSON >> 20} MiB",
        f"{worker_output.BURST_BYTES >> 20} MiB at once and {worker_output.BYTES_PER_S >> 10} KiB a second",
        f"a try | `timeout_s`, {default(Judge, 'timeout_s'):g} s",
        f"1 and `retries`, {default(Judge, 'retries')}",
        f"{client.MAX_WAIT_S:g} s, whatever `Retry-After` says",
        f"a reply | {client.MAX_BODY_BYTES >> 20} MiB",
        f"a chat that is sent by a policy | {MOST_BYTES >> 20} MiB",
        f"`call_timeout_s`, {default(EndpointCarry, 'call_timeout_s'):g} s",
        f"{session.MOST_BYTES >> 20} MiB, nested {strict_json.MAX_DEPTH} levels, uncompressed",
        f"{text_game.MOST_CHARACTERS:,} characters",
        f"its schema of actions | {server.MOST_SCHEMA_BYTES >> 20} MiB",
        f"`timeout_s`, {OpenEnvParams.model_fields['timeout_s'].default:g} s, of waiting",
        f"{session.AGAIN_S:g} s of waiting after one that was in vain",
        f"`restarts`, {OpenEnvParams.model_fields['restarts'].default} times an episode",
        f"{replies.BYTES_AROUND >> 10} KiB, and {replies.BYTES_PER_TOKEN} bytes for each token",
        f"a completion | `timeout_s`, {VllmEngine.model_fields['timeout_s'].default:g} s",
        f"`sync_timeout_s`, {VllmEngine.model_fields['sync_timeout_s'].default:g} s",
        f"another answer | {engine_server.MOST_BYTES >> 20} MiB, nested {strict_json.MAX_DEPTH} levels",
        f"`start_timeout_s`, {VllmLaunch.model_fields['start_timeout_s'].default:g} s, once",
        f"`restarts`, {VllmLaunch.model_fields['restarts'].default} times |",
        f"within {signals.GRACE_S:g} s is lost",
        f"killed after {signals.KILL_S:g} s",
    ):
        assert text in page, text
    assert checked_model.MOST_MISSING == 2**20  # "a million"
