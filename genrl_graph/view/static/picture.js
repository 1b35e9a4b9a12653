// The picture of the graph with the state of each node, and the panel of the chosen node.
import { el, number } from "./dom.js";
import { said } from "./tables.js";

const SIGNS = { running: "▶", waiting: "‖", done: "✓", failed: "✗", later: "" };
const ROLLOUTS = ["generate", "exchange"]; // the kinds of nodes whose rows are rollouts
const SVG = "http://www.w3.org/2000/svg";

// Text is escaped by the server; scripts in it could not run either: the page's policy admits none but its own files.
export function makePicture(game, choose) {
  const parsed = new DOMParser().parseFromString(game.svg, "image/svg+xml");
  const svg = document.importNode(parsed.documentElement, true);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", `${game.name}: ${game.subtitle}`);
  const boxes = new Map();
  const labels = new Map();
  for (const box of svg.querySelectorAll(".box[data-name]")) {
    const name = box.dataset.name;
    boxes.set(name, box);
    box.setAttribute("tabindex", "0");
    box.setAttribute("role", "button");
    // the words in the box first: who speaks to the page says what is seen
    const words = [...box.querySelectorAll("text")].map((part) => part.textContent).join(" ");
    labels.set(name, words);
    box.setAttribute("aria-label", words);
    box.addEventListener("click", () => choose(name));
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(name);
    });
  }
  let scale = 1;
  const resize = (factor) => {
    scale = factor === 0 ? 1 : Math.min(6, Math.max(0.2, scale * factor));
    svg.style.width = scale === 1 ? "100%" : `${width * scale}px`;
    svg.style.maxWidth = scale === 1 ? `${width}px` : "none";
    svg.style.minWidth = scale === 1 ? `${Math.min(width, 560)}px` : "0";
    svg.style.aspectRatio = `${width} / ${height}`;
  };
  resize(0);
  const button = (text, label, factor) =>
    el("button", { type: "button", "aria-label": label, title: label, onclick: () => resize(factor) }, text);
  const view = el("div", { class: "picture scroll", tabindex: 0, role: "region", "aria-label": "picture of the graph" });
  view.append(svg);
  const bar = el(
    "div",
    { class: "bar" },
    button("+", "zoom in", 1.3),
    button("−", "zoom out", 1 / 1.3),
    button("fit", "fit the width", 0),
    el("span", { class: "key" }, "▶ running  ‖ waiting  ✓ done  ✗ failed"),
  );
  return { element: el("div", {}, bar, view), boxes, labels, shown: new Map() };
}

// Marks each box with its state: a sign and words, a dashed or thick border; colour comes on top.
export function markStates(picture, nodes, now) {
  for (const [name, node] of Object.entries(nodes)) {
    const [box, state, text] = [picture.boxes.get(name), node.state, said(node, now)];
    const label = state === "done" || state === "failed" || state === "later" ? "" : text;
    const key = `${state} ${label}`;
    if (!box || picture.shown.get(name) === key) continue;
    picture.shown.set(name, key);
    box.classList.remove("is-running", "is-waiting", "is-done", "is-failed", "is-later");
    box.classList.add(`is-${state}`);
    box.setAttribute("aria-label", `${picture.labels.get(name)}, ${text}`);
    for (const old of box.querySelectorAll(".state")) old.remove();
    if (!SIGNS[state]) continue;
    const { x, y, width } = box.querySelector(".outline").getBBox();
    box.append(mark(SIGNS[state], x + width - 8, y + 13, "end"));
    if (label) box.append(mark(label.length > 44 ? `${label.slice(0, 43)}…` : label, x + 24, y - 5, "start")); // beside its step
  }
}

function mark(words, x, y, anchor) {
  const text = document.createElementNS(SVG, "text");
  for (const [name, value] of Object.entries({ class: "state", x, y, "font-size": 11, "text-anchor": anchor })) text.setAttribute(name, value);
  text.textContent = words;
  return text;
}

export function nodePanel(name, game, state, now, { choose, rollouts, curves }) {
  const box = game.boxes[name];
  const node = state.nodes[name];
  const link = (other) => el("button", { type: "button", class: "link", onclick: () => choose(other) }, other);
  const list = (title, items) => (items.length ? [el("h3", {}, title), el("ul", {}, items.map((item) => el("li", {}, item)))] : []);
  const numbers = Object.entries(node?.numbers ?? {}).map(
    ([key, value]) => `${key.replaceAll("_", " ")} ${number(value.last)} (mean ${number(value.mean)})`,
  );
  return [
    el("button", { type: "button", class: "close", "aria-label": "close", onclick: () => choose(null) }, "×"),
    el("h2", {}, name),
    el("p", { class: "muted" }, [box.type, box.place, node && said(node, now)].filter(Boolean).join(" · ")),
    box.doc ? el("p", { class: "doc" }, box.doc) : null,
    el(
      "p",
      {},
      ROLLOUTS.includes(box.kind) ? el("button", { type: "button", onclick: () => rollouts(name) }, "its rollouts") : null,
      " ",
      node ? el("button", { type: "button", onclick: () => curves(name) }, "its curves") : null,
    ),
    ...list("numbers of the last round", numbers),
    ...list("inputs", box.inputs.map((input) => [`${input.socket} ← `, link(input.origin), ` ${input.label}`])),
    ...list("outputs", box.outputs.map((output) => [`${output.label} → `, link(output.reader), `.${output.socket}`])),
    ...list("params", box.params.map(([key, value]) => [key, el("pre", {}, value)])),
  ].filter(Boolean);
}
