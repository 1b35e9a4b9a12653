// Where the data comes from: the server, or, in an exported page, the data that was frozen into it.

const holder = document.getElementById("frozen");
export const frozen = holder ? JSON.parse(holder.textContent) : null;

export async function get(path, params = {}) {
  if (frozen) return fromFrozen(path, params);
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") query.append(name, each);
    }
  }
  const answer = await fetch(`api/${path}?${query}`);
  const values = await answer.json();
  if (!answer.ok) throw new Error(values.problem ?? `status ${answer.status}`);
  return values;
}

// Calls `take` with what is new of a run and of the curves of some metrics (null: its outcomes): all at once, then what
// changes; and `lost` while there is no connection. Returns what closes it.
export function follow(run, metrics, take, lost) {
  if (frozen) {
    const state = frozen.states[run];
    const names = metrics ?? state.outcomes.slice(0, 9);
    const curves = Object.fromEntries(names.map((name) => [name, { whole: true, settings: frozen.curves[name] ?? [] }]));
    take({ time: frozen.time, whole: true, state, nodes: state.nodes, curves });
    return () => {};
  }
  const query = new URLSearchParams({ run });
  if (metrics === null) query.set("outcomes", 1);
  for (const name of metrics ?? []) query.append("metric", name);
  const events = new EventSource(`events?${query}`);
  events.addEventListener("message", (event) => take(JSON.parse(event.data)));
  events.addEventListener("error", lost);
  return () => events.close();
}

// Adds the points of `part` to a curve, in place of those of the same rounds.
export function merged(curve, part) {
  const points = new Map(curve.rounds.map((round, at) => [round, [curve.mean[at], curve.low[at], curve.high[at]]]));
  part.rounds.forEach((round, at) => points.set(round, [part.mean[at], part.low[at], part.high[at]]));
  const rounds = [...points.keys()].sort((a, b) => a - b);
  const column = (of) => rounds.map((round) => points.get(round)[of]);
  return { ...part, rounds, mean: column(0), low: column(1), high: column(2) };
}

function fromFrozen(path, params) {
  const run = Number(params.run ?? 0);
  if (path === "overview") return frozen.overview;
  if (path === "game") return frozen.games[run];
  if (path === "rollouts") return frozenRollouts(run, params);
  if (path === "lineage") return frozen.lineages[run][params.id] ?? { rollout: null };
  return { problem: "an exported page has no estimate; run genrl-graph plan GRAPH --estimate --compare RUN" };
}

function frozenRollouts(run, { node: named, task = "", peer, least, most, failed }) {
  const nodes = [...new Set(frozen.rollouts[run].map((one) => one.node))];
  const node = named || nodes[0];
  const bounded = least !== "" || most !== "";
  const rollouts = frozen.rollouts[run].filter(
    (one) =>
      one.node === node &&
      one.task.includes(task) &&
      (!peer || one.peer === peer) &&
      (!failed || one.failed) &&
      (!bounded || one.reward !== null) &&
      (least === "" || one.reward >= Number(least)) &&
      (most === "" || one.reward <= Number(most)),
  );
  return { rollouts, nodes, node, before: null, from: null, to: null };
}
