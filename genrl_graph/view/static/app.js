// The page: tabs, the run that is shown, and what is read again when runs change.
import { chart } from "./charts.js";
import { announce, duration, el } from "./dom.js";
import { makePicture, markStates, nodePanel } from "./picture.js";
import { makeRollouts } from "./rollouts.js";
import { follow, frozen, get, merged } from "./source.js";
import { logView, nodesTable, peersView, planView, shares } from "./tables.js";

const TABS = { now: "now", curves: "curves", rollouts: "rollouts", peers: "peers", plan: "plan and fact", log: "log" };
const FIRST = /^(eval\/)?stage\d+\/(?!zero_variance)|\/gradient_share$/;
const MOST_CHARTS = 24;

const page = { run: 0, tab: "now", overview: null, game: null, state: null, curves: {}, chosen: null, metrics: null, skew: 0 };
const byId = (id) => document.getElementById(id);
const now = () => (frozen ? frozen.time : Date.now() / 1000 + page.skew);
const rollouts = makeRollouts(page);
let picture = null;
let nodes = null;
let charts = new Map();

// --- what is read, and when

let close = () => {};

// Opens the stream of what the page shows now; a page that nobody sees has none, so nothing is read for it.
function listen() {
  close();
  close = () => {};
  if (document.hidden || page.game === null) return;
  const metrics = { now: null, curves: page.metrics }[page.tab];
  close = follow(page.run, metrics === undefined ? [] : metrics, take, () => announce("the connection to genrl-graph view is lost; it is tried again"));
}

function take(news) {
  if (news.whole) page.state = { nodes: {} };
  Object.assign(page.state, news.state);
  Object.assign(page.state.nodes, news.nodes);
  page.skew = news.time - Date.now() / 1000;
  for (const [name, { whole, settings }] of Object.entries(news.curves)) {
    const known = new Map(whole ? [] : page.curves[name].map((one) => [one.setting, one]));
    for (const one of settings) known.set(one.setting, known.has(one.setting) ? merged(known.get(one.setting), one) : one);
    page.curves[name] = [...known.values()];
  }
  show();
}

async function start() {
  const run = page.run;
  try {
    page.overview ??= await get("overview");
    const game = await get("game", { run });
    if (run !== page.run) return;
    page.game = game;
    if (page.tab === "curves") chooseMetrics();
    showRun();
    listen();
  } catch (error) {
    announce(error.message);
  }
}

// --- what is shown

function showRun() {
  const { runs } = page.overview;
  const { name } = runs[page.run];
  byId("title").textContent = name === page.game.name ? name : `${name}: ${page.game.name}`;
  document.title = `${runs[page.run].name} · genrl-graph`;
  byId("choose-run").hidden = runs.length < 2;
  byId("run").replaceChildren(...runs.map((one, at) => el("option", { value: at }, one.name)));
  byId("run").value = page.run;
  picture = makePicture(page.game, choose);
  nodes = nodesTable(page.game, choose);
  const style = new CSSStyleSheet();
  style.replaceSync(page.game.css);
  document.adoptedStyleSheets = [style];
  byId("now").replaceChildren(
    ...page.game.problems.map((text) => el("p", { class: "problem" }, text)),
    el("div", { class: "split" }, picture.element, el("aside", { id: "node", class: "detail", "aria-label": "node", tabindex: -1, hidden: true })),
    el("div", { id: "shares" }),
    el("div", { id: "main-curves", class: "charts" }),
    el("div", { id: "nodes" }, nodes.element),
  );
  byId("rollouts").replaceChildren(rollouts.element);
  rollouts.reset();
}

function show() {
  const { state, game, overview } = page;
  showStatus();
  document.body.dataset.state = state.state;
  if (page.tab === "now") {
    showNodes();
    byId("shares").replaceChildren(...[shares(state)].filter(Boolean));
    if (page.chosen) fillNode(false);
    showCharts(byId("main-curves"), state.outcomes.slice(0, 9));
  }
  if (page.tab === "curves") showMetrics();
  if (page.tab === "rollouts") rollouts.refresh(state);
  if (page.tab === "peers") byId("peers").replaceChildren(...peersView(state, game, now()));
  if (page.tab === "log") byId("log").replaceChildren(...logView(state, overview));
  if (page.tab === "plan") showPlan();
}

function showNodes() {
  markStates(picture, page.state.nodes, now());
  nodes.update(page.state, now());
}

// Seconds of waiting and of running pass without news.
function tick() {
  if (page.state?.state !== "running" || document.hidden) return;
  showStatus();
  if (page.tab === "now") showNodes();
  if (page.tab === "peers" && !byId("peers").contains(document.activeElement)) byId("peers").replaceChildren(...peersView(page.state, page.game, now()));
}

function showStatus() {
  const { state, writers, played, rounds, loading, changed } = page.state;
  const process = writers.length ? ` (process ${writers.join(", ")})` : "";
  announce(`${frozen ? "exported: " : ""}${state}${process}, ${played} of ${rounds} rounds${loading ? ", reading …" : ""}`);
  byId("age").textContent = frozen ? "" : `last written ${duration(now() - changed)} ago`;
}

function choose(name) {
  const before = page.chosen;
  page.chosen = name;
  for (const [other, box] of picture.boxes) box.classList.toggle("chosen", other === name);
  if (name !== null) return fillNode(true);
  byId("node").hidden = true;
  picture.boxes.get(before)?.focus();
}

function fillNode(opened) {
  const panel = byId("node");
  if (!opened && panel.contains(document.activeElement) && document.activeElement !== panel) return;
  panel.replaceChildren(
    ...nodePanel(page.chosen, page.game, page.state, now(), {
      choose,
      rollouts(name) {
        rollouts.only(name);
        open("rollouts");
      },
      async curves(name) {
        page.overview = await get("overview");
        page.metrics = page.overview.metrics.filter((metric) => metric.startsWith(`${name}/`) || metric === `time/${name}`).slice(0, MOST_CHARTS);
        open("curves");
        listMetrics();
      },
    }),
  );
  panel.hidden = false;
  if (opened) panel.focus();
}

function showCharts(parent, names) {
  const key = `${parent.id} ${page.run} ${document.documentElement.dataset.theme} ${names.join(" ")}`;
  const places = [...new Set(page.overview.runs.map((one) => one.setting))];
  const known = charts.get(parent.id);
  const curves = (name) => page.curves[name] ?? [];
  if (known?.key === key && names.every((name) => known.drawn.get(name).update?.(curves(name)))) return;
  for (const drawn of known?.drawn.values() ?? []) drawn.destroy();
  const drawn = new Map(names.map((name) => [name, chart(name, curves(name), places)]));
  charts.set(parent.id, { key, drawn });
  parent.replaceChildren(...[...drawn.values()].map((one) => one.element));
}

function chooseMetrics() {
  page.metrics ??= page.overview.metrics.filter((name) => FIRST.test(name)).slice(0, MOST_CHARTS);
}

async function showMetrics() {
  const section = byId("curves");
  if (!section.firstChild) {
    const search = el("input", { type: "search", id: "metric", placeholder: "part of a metric's name", oninput: listMetrics });
    section.append(
      el("div", { class: "filters" }, el("label", {}, "find a metric ", search)),
      el("fieldset", { id: "metrics" }, el("legend", {}, "metrics")),
      el("div", { id: "all-curves", class: "charts" }),
    );
    listMetrics();
  }
  showCharts(byId("all-curves"), page.metrics);
  if (frozen || page.listed === page.state.metrics) return;
  page.listed = page.state.metrics; // the run reports more metrics than are listed
  page.overview = await get("overview");
  if (!page.metrics.length) {
    page.metrics = null;
    chooseMetrics();
    listen();
  }
  listMetrics();
}

function listMetrics() {
  const wanted = byId("metric").value.toLowerCase();
  const names = page.overview.metrics.filter((name) => name.toLowerCase().includes(wanted));
  const sorted = [...page.metrics, ...names.filter((name) => !page.metrics.includes(name))].slice(0, 80);
  const toggle = (name) => (event) => {
    page.metrics = event.target.checked ? [...page.metrics, name].slice(-MOST_CHARTS) : page.metrics.filter((other) => other !== name);
    listen();
  };
  byId("metrics").replaceChildren(
    el("legend", {}, `metrics (${names.length})`),
    ...sorted.map((name) => el("label", {}, el("input", { type: "checkbox", checked: page.metrics.includes(name), onchange: toggle(name) }), ` ${name}`)),
  );
}

async function showPlan() {
  const section = byId("plan");
  if (section.firstChild) return;
  const ask = async () => {
    section.replaceChildren(el("p", { role: "status" }, "rehearsing a few rounds; this takes seconds …"));
    section.replaceChildren(...planView(await get("estimate", { run: page.run })));
  };
  if (frozen) return ask();
  section.replaceChildren(
    el("p", {}, "The plan's estimate of this run beside what it took. To make it, a few rounds are rehearsed on this machine, in a process of its own."),
    el("button", { type: "button", onclick: ask }, "estimate"),
  );
}

// --- tabs, keys, colours

function open(name) {
  page.tab = name;
  for (const id of Object.keys(TABS)) {
    byId(id).hidden = id !== name;
    byId(`tab-${id}`).setAttribute("aria-selected", id === name);
    byId(`tab-${id}`).tabIndex = id === name ? 0 : -1;
  }
  history.replaceState(null, "", `#tab=${name}`); // no id: the browser would scroll to it
  if (name === "curves" && page.overview) chooseMetrics();
  if (page.state) show();
  listen();
}

function makeTabs() {
  const names = Object.keys(TABS);
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = names[(names.indexOf(page.tab) + step + names.length) % names.length];
    open(next);
    byId(`tab-${next}`).focus();
  };
  byId("tabs").append(
    ...names.map((name) =>
      el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": name, onclick: () => open(name), onkeydown: move }, TABS[name]),
    ),
  );
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "light" : "dark";
  byId("theme").setAttribute("aria-label", `change to ${name === "dark" ? "light" : "dark"} colours`);
  if (page.state) show();
}

function changeRun(number) {
  Object.assign(page, { run: number, game: null, state: null, chosen: null, curves: {} });
  close();
  byId("plan").replaceChildren();
  start();
}

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", () => setTheme(prefersDark.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
byId("run").addEventListener("change", (event) => changeRun(Number(event.target.value)));
window.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  const name = Object.keys(TABS)[Number(event.key) - 1];
  if (name) open(name);
  if (event.key === "Escape" && page.chosen !== null) choose(null);
  if (event.key === "/") {
    event.preventDefault();
    open(page.tab === "curves" ? "curves" : "rollouts");
    byId(page.tab === "curves" ? "metric" : "f-task")?.focus();
  }
});

makeTabs();
setTheme(prefersDark.matches ? "dark" : "light");
const asked = location.hash.replace("#tab=", "");
open(Object.hasOwn(TABS, asked) ? asked : "now");
start();
if (!frozen) {
  document.addEventListener("visibilitychange", listen);
  setInterval(tick, 1000);
}
