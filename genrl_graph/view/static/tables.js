// Tables of nodes, peers, the plan's estimate and the log.
import { clock, duration, el, number, patch, table } from "./dom.js";
import { frozen } from "./source.js";

const COLUMNS = ["seconds", "rows", "tokens", "reward", "zero_variance", "refused", "failed_rows", "loss", "version"];

// The table of nodes, whose `update` changes only the cells whose values have changed.
export function nodesTable(game, choose) {
  let shape = null;
  let view = null;
  const link = (name) => el("button", { type: "button", class: "link", onclick: () => choose(name) }, name);
  return {
    element: el("div", {}),
    update(state, now) {
      const names = game.order.filter((name) => state.nodes[name]);
      const columns = COLUMNS.filter((column) => names.some((name) => state.nodes[name].numbers[column]));
      const total = names.reduce((sum, name) => sum + (state.nodes[name].numbers.seconds?.mean ?? 0), 0);
      const rows = names.map((name) => {
        const node = state.nodes[name];
        const told = el("span", { class: `tag is-${node.state}` }, said(node, now));
        return [name, told, ...columns.map((column) => cell(node.numbers[column], column, total))];
      });
      const same = shape === `${names.join()} ${columns.join()}`;
      shape = `${names.join()} ${columns.join()}`;
      if (same) return patch(view, rows);
      const linked = rows.map(([name, ...cells]) => [link(name), ...cells]);
      view = table("nodes: the last round, means over the peers", ["node", "state", ...columns.map((one) => HEADS[one] ?? one)], linked);
      this.element.replaceChildren(view);
    },
  };
}

const HEADS = { seconds: "seconds (share)", zero_variance: "zero variance", refused: "refused in all", failed_rows: "failed in all" };

function cell(value, column, total) {
  if (!value) return "";
  if (column === "refused" || column === "failed_rows") return number(value.total);
  if (column !== "seconds") return number(value.last);
  return `${number(value.last, 3)}${total ? ` (${Math.round((100 * value.mean) / total)} %)` : ""}`;
}

// What a node says now: the seconds since it began stand between its words.
export const said = (node, now) => node.words.join(Math.max(0, Math.round(now - node.since)));

export function shares(state) {
  const roles = Object.entries(state.shares);
  if (!roles.length) return null;
  const rows = roles.map(([name, { last, mean }]) => [
    name,
    el("meter", { min: 0, max: 1, value: last, "aria-label": `gradient share of ${name}` }),
    `${number(100 * last, 3)} %`,
    `${number(100 * mean, 3)} %`,
  ]);
  return table("gradient share of each role", ["role", "", "last round", "mean"], rows);
}

export function peersView(state, game, now) {
  const peers = state.peers.map((peer) => [
    peer.name,
    String(peer.round),
    peer.doing || "–",
    `${peer.done} of ${peer.of}`,
    frozen ? clock(peer.since) : peer.since ? `${duration(now - peer.since)} ago` : "–",
    Object.entries(peer.missing).map(([other, why]) => `${other}: ${why}`).join("; ") || "–",
  ]);
  const accounts = Object.entries(state.accounts).sort((a, b) => (b[1].seconds ?? 0) - (a[1].seconds ?? 0));
  const units = [...new Set(accounts.flatMap(([, account]) => Object.keys(account)))];
  return [
    table("peers whose steps are stored here", ["peer", "round", "doing", "nodes done", "last commit", "missed last"], peers, { className: "wrap" }),
    accounts.length
      ? table(
          "what other peers cost, over all rounds",
          ["peer", ...units.map((unit) => (unit === "late" ? "times late" : unit))],
          accounts.map(([peer, account]) => [peer, ...units.map((unit) => number(account[unit] ?? 0))]),
        )
      : el("p", { class: "muted" }, "no other peer has cost anything: all peers of this run are in one process, or none has come yet"),
    game.limits.length ? table("budgets and limits of this graph", ["param", "value"], game.limits) : null,
  ].filter(Boolean);
}

const range = (value) => (value ? `${number(value.low, 3)} to ${number(value.high, 3)}` : "unknown");

export function planView(forecast) {
  if (forecast.problem) return [el("p", { class: "problem" }, forecast.problem)];
  const compared = (forecast.compared ?? []).map((pair) => [
    pair.name,
    range(pair.estimated),
    number(pair.measured, 3),
    pair.inside === null ? "–" : pair.inside ? "✓ inside" : "✗ outside",
  ]);
  return [
    el("p", {}, `a round: ${range(forecast.round_seconds)} s; the run: ${range(forecast.run_seconds)} s, by the plan`),
    table("estimate and fact: seconds of a mean round by node, and memory", ["what", "estimated", "measured", ""], compared),
  ];
}

export function logView(state, overview) {
  const notes = [...state.notes].reverse().map((note) => [clock(note.time) || "–", note.text]);
  const problems = [state.problem, ...overview.notes].filter(Boolean);
  return [
    ...problems.map((text) => el("p", { class: "problem" }, text)),
    notes.length ? table("notes of the run, the newest first", ["time", "note"], notes, { className: "log" }) : el("p", { class: "muted" }, "the run has told of no trouble"),
  ];
}
