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

// Calls `news` with {versions, loading} at once and whenever a run changes, and `lost` while there is no connection.
export function listen(news, lost) {
  if (frozen) return news({ versions: frozen.states.map((state) => state.version), loading: false });
  const events = new EventSource("events");
  events.addEventListener("message", (event) => news(JSON.parse(event.data)));
  events.addEventListener("error", lost);
  return events;
}

function fromFrozen(path, params) {
  const run = Number(params.run ?? 0);
  if (path === "overview") return frozen.overview;
  if (path === "game") return frozen.games[run];
  if (path === "state") return frozen.states[run];
  if (path === "curves") return Object.fromEntries(params.metric.map((name) => [name, frozen.curves[name] ?? []]));
  if (path === "rollouts") return frozenRollouts(run, params);
  if (path === "lineage") return frozen.lineages[run][params.id] ?? { rollout: null };
  return { problem: "an exported page has no estimate; run genrl-graph plan GRAPH --estimate --compare RUN" };
}

function frozenRollouts(run, { node, task = "", peer, least, most, failed }) {
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
  return { rollouts, before: null, from: null, to: null };
}
