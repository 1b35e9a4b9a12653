// Rollouts with filters, newest first; one of them in full, with its lineage by click.
import { el, number } from "./dom.js";
import { frozen, get } from "./source.js";

const SIGNS = { ".": ["", "empty"], x: ["✕", "x"], o: ["◯", "o"], "*": ["⊗", "both"] };

const PAUSE_MS = 1400;
const COST = 50; // pauses are this many times as long as the last answer took: reading them must not cost the run

export function makeRollouts(page) {
  const field = (name, label, input) => {
    input.id = `f-${name}`;
    input.name = name;
    return el("label", {}, `${label} `, input);
  };
  const node = el("select");
  const peer = el("select");
  const task = el("input", { type: "search", placeholder: "part of a task's id" });
  const least = el("input", { type: "number", step: "any", placeholder: "any" });
  const most = el("input", { type: "number", step: "any", placeholder: "any" });
  const failed = el("input", { type: "checkbox" });
  const form = el(
    "form",
    { class: "filters", onsubmit: (event) => event.preventDefault() },
    field("node", "node", node),
    field("peer", "peer", peer),
    field("task", "task", task),
    field("least", "reward from", least),
    field("most", "to", most),
    field("failed", "failed only", failed),
  );
  const list = el("ul", { class: "cards", "aria-label": "rollouts, newest first" });
  const more = el("button", { type: "button", onclick: () => load(before) }, "look further back");
  const told = el("p", { class: "muted", role: "status" });
  const detail = el("aside", { id: "detail", class: "detail", tabindex: -1, "aria-label": "rollout and lineage", hidden: true });
  const element = el("div", {}, form, el("div", { class: "split" }, el("div", {}, told, list, more), detail));
  let before = null;
  let asked = 0;
  let stale = true;
  let chosen = null; // a node that is asked for before it is in the list
  let next = 0;
  let later = 0;
  let further = false;

  // The newest rollouts, unless somebody reads one of them, or further back.
  function followed() {
    clearTimeout(later);
    later = 0;
    if (page.tab === "rollouts" && detail.hidden && !further && !document.activeElement?.closest(".cards")) load(null);
  }

  form.addEventListener("change", () => {
    chosen = null;
    load(null);
  });
  let typing = 0;
  task.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => load(null), 250);
  });

  async function load(from) {
    const mine = ++asked;
    further = from !== null;
    stale = false;
    const began = performance.now();
    const params = { run: page.run, node: chosen ?? node.value, peer: peer.value, task: task.value, least: least.value, most: most.value };
    try {
      const answer = await get("rollouts", { ...params, failed: failed.checked ? "1" : "", before: from });
      if (mine !== asked) return;
      options(node, answer.nodes);
      node.value = answer.node;
      chosen = null;
      if (from === null) list.replaceChildren();
      list.append(...answer.rollouts.map(card));
      before = answer.before;
      more.hidden = before === null;
      const rounds = answer.to === answer.from ? `round ${answer.to}` : `rounds ${answer.to} to ${answer.from}`;
      const where = answer.to === null ? "" : `, ${rounds} looked through`;
      told.textContent = answer.node ? `${list.children.length} shown${where}` : "no rollouts are stored yet";
    } catch (error) {
      told.textContent = error.message;
    }
    next = performance.now() + Math.max(PAUSE_MS, COST * (performance.now() - began));
  }

  function card(one) {
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", class: `card${one.failed ? " is-failed" : ""}`, onclick: () => show(one) },
        el("span", { class: "reward" }, one.failed ? "failed" : one.reward === null ? "no reward" : `reward ${number(one.reward)}`),
        el("span", { class: "muted" }, ` round ${one.round} · ${one.peer} · ${one.task} · ${one.facts}`),
        el("span", { class: "gist" }, one.gist || one.error || "(empty)"),
      ),
    );
  }

  async function show(one, everywhere = false) {
    detail.hidden = false;
    detail.replaceChildren(...full(one), el("p", { class: "muted" }, "looking for its lineage …"));
    detail.focus({ preventScroll: false });
    try {
      const params = { run: page.run, id: one.id, node: one.node, round: one.round, everywhere: everywhere ? "1" : "" };
      const found = await get("lineage", params);
      detail.replaceChildren(...full(found.rollout ?? one), ...related(found, one));
    } catch (error) {
      detail.lastChild.textContent = error.message;
    }
  }

  function full(one) {
    const close = () => {
      detail.hidden = true;
      list.querySelector("button")?.focus();
    };
    const terms = Object.entries(one.terms).map(([name, value]) => `${name} ${number(value)}`);
    const facts = [
      ["task", one.task],
      ["node", `${one.node}, round ${one.round}`],
      ["peer", one.peer === one.holder ? one.peer : `${one.peer} (copy of ${one.holder})`],
      ["policy", one.policy],
      ["reward", `${number(one.reward)}${terms.length ? ` (${terms.join(", ")})` : ""}`],
      ["advantage", number(one.advantage)],
      ["length", one.facts],
      ...Object.entries(one.reasons).map(([by, why]) => [`not judged by ${by}`, why]),
      ...(one.error ? [["error", one.error]] : []),
    ];
    return [
      el("button", { type: "button", class: "close", "aria-label": "close", onclick: close }, "×"),
      el("h2", {}, `rollout ${one.id.slice(0, 10)}`),
      el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      text(one),
    ];
  }

  function related(found, one) {
    const lines = (rollouts) => el("ul", { class: "relatives" }, rollouts.map(relative));
    const trained = found.trained ?? [];
    const everywhere = el("button", { type: "button", onclick: () => show(one, true) }, "search all rounds");
    return [
      el("h3", {}, "quotes"),
      found.ancestors?.length ? lines(found.ancestors) : el("p", { class: "muted" }, "its prompt quotes no other rollout: it begins with the task"),
      el("h3", {}, "quoted by"),
      found.quoted_by?.length ? lines(found.quoted_by) : el("p", { class: "muted" }, "no rollout nearby quotes it"),
      el("h3", {}, "trained on"),
      trained.length ? el("ul", { class: "relatives" }, trained.map((line) => el("li", {}, line))) : el("p", { class: "muted" }, "no update nearby trained on it "),
      trained.length || frozen ? null : everywhere,
    ].filter(Boolean);
  }

  function relative(one) {
    if (one.missing) return el("li", {}, `${one.id.slice(0, 10)} is not near this round`);
    const label = `${one.node}, round ${one.round}, ${one.peer}, reward ${number(one.reward)}: ${one.gist.slice(0, 80)}`;
    const indent = one.depth > 1 ? `${"↳ ".repeat(one.depth - 1)}` : "";
    return el("li", {}, indent, el("button", { type: "button", class: "link", onclick: () => show(one) }, label));
  }

  return {
    element,
    refresh(state) {
      options(peer, ["", ...state.peers.map((one) => one.name)], { "": "all" });
      if (stale) return load(null);
      const wait = next - performance.now();
      if (wait <= 0) followed();
      else later ||= setTimeout(followed, wait);
    },
    only(name) {
      chosen = name;
      stale = true;
    },
    reset() {
      node.replaceChildren();
      stale = true;
      detail.hidden = true;
    },
  };
}

function options(select, values, labels = {}) {
  const known = [...select.options].map((option) => option.value);
  if (known.join("\n") === values.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => el("option", { value }, labels[value] ?? value)));
  if (values.includes(chosen)) select.value = chosen;
}

// The text of a rollout: a chat, a dialogue of seats, or the boards of a game.
function text(one) {
  if (one.form === "boards") {
    return el("ol", { class: "boards", "aria-label": "boards" }, one.moves.map((move, at) => el("li", {}, board(move, at))));
  }
  if (one.form === "dialogue") {
    return el("div", { class: "chat" }, one.turns.flatMap((turn) => [...turn.heard.map(heard), said(turn)]));
  }
  const parts = one.image ? one.parts.filter((part) => part.role !== "image") : one.parts;
  const messages = parts.map((part) => message(part.role, part.text, part.role === "completion" ? "said" : "heard"));
  return el("div", { class: "chat" }, messages, one.image && el("img", { class: "made", src: one.image, alt: `image of: ${one.gist}` }));
}

const message = (who, words, kind) => el("div", { class: `message ${kind}` }, el("b", {}, who), el("pre", {}, words || "(empty)"));
const heard = ({ role, text: words }) => message(`${role} says`, words, "heard");

function said(turn) {
  const notes = [
    turn.action !== turn.said.trim() ? `plays ${turn.action || "nothing"}` : "",
    turn.reward ? `reward ${number(turn.reward)}` : "",
    turn.ending,
  ].filter(Boolean);
  const kind = `said seat-${turn.seat % 2}`;
  return message(`seat ${turn.seat}${notes.length ? ` (${notes.join(", ")})` : ""}`, turn.said, kind);
}

function board(move, at) {
  const cells = move.board.map((row) =>
    el("tr", {}, row.split(" ").map((cell) => el("td", {}, el("span", { "aria-hidden": "true" }, SIGNS[cell]?.[0] ?? cell), el("span", { class: "unseen" }, SIGNS[cell]?.[1] ?? "")))),
  );
  const reward = move.reward ? `, reward ${number(move.reward)}` : "";
  return el("figure", {}, el("table", { class: "board", "aria-label": `board before step ${at}` }, el("tbody", {}, cells)), el("figcaption", {}, `${at}: action ${move.action}${reward}`));
}
