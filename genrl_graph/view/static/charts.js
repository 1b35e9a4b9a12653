// Charts of metrics: one line a setting with its interval, told apart by dashes as well as by colour.
import { el, number } from "./dom.js";

const COLOURS = {
  light: ["#0072b2", "#b34700", "#00795c", "#a03a78", "#6b5b00", "#333333", "#1f6fb0", "#8a3000"],
  dark: ["#6cb6ff", "#ff9d5c", "#4fd1a5", "#f0a3d0", "#e6d04a", "#dddddd", "#9cd0ff", "#ffc4a0"],
};
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [14, 4], [1, 4], [6, 2, 1, 2]];

const WHOLE = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((step) => step * 10 ** power)); // between ticks of rounds

const theme = () => document.documentElement.dataset.theme ?? "light";
export const colour = (at) => COLOURS[theme()][at % COLOURS.light.length];
export const dash = (at) => DASHES[(at + Math.floor(at / COLOURS.light.length)) % DASHES.length];
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A chart of settings: [{setting, rounds, mean, low, high, runs, each}]; settings keep their place and so their colour.
export function chart(title, settings, places) {
  const figure = el("figure", { class: "chart" }, el("figcaption", {}, title));
  const known = settings.filter((one) => one.rounds.length);
  if (!known.length) {
    figure.append(el("p", { class: "muted" }, "no values yet"));
    return { element: figure, destroy() {} };
  }
  const area = el("div", { class: "plot", role: "img", "aria-label": spoken(title, known) });
  figure.append(area, legend(known, places));
  let plot = null;
  const draw = () => {
    if (plot || !area.clientWidth) return;
    plot = new uPlot(options(known, places, area.clientWidth), data(known), area);
  };
  const sized = new ResizeObserver(() => (plot ? plot.setSize({ width: area.clientWidth, height: 190 }) : draw()));
  sized.observe(area);
  return {
    element: figure,
    update(next) {
      const now = next.filter((one) => one.rounds.length);
      if (!plot || shape(now) !== shape(known)) return false;
      plot.setData(data(now));
      area.setAttribute("aria-label", spoken(title, now));
      figure.querySelector(".legend").replaceWith(legend(now, places));
      return true;
    },
    destroy() {
      sized.disconnect();
      plot?.destroy();
    },
  };
}

const shape = (settings) => settings.map((one) => `${one.setting}:${one.runs.length}`).join("|");

const data = (settings) => uPlot.join(settings.map((one) => [one.rounds, one.mean, one.low, one.high]));

function options(settings, places, width) {
  const series = [{}];
  const bands = [];
  for (const one of settings) {
    const at = places.indexOf(one.setting);
    const stroke = () => colour(at);
    series.push({ label: one.setting, stroke, width: 2, dash: dash(at), spanGaps: true, points: { show: one.rounds.length < 40, size: 5 } });
    series.push({ stroke: "transparent", points: { show: false }, spanGaps: true });
    series.push({ stroke: "transparent", points: { show: false }, spanGaps: true });
    const last = series.length - 1;
    bands.push({ series: [last, last - 1], fill: () => `${colour(at)}2a` });
  }
  const axis = { stroke: () => ink("--muted"), grid: { stroke: () => ink("--line"), width: 1 }, ticks: { show: false }, font: "11px sans-serif" };
  return {
    width,
    height: 190,
    series,
    bands,
    legend: { show: false },
    cursor: { y: false },
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 26, incrs: WHOLE }, { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => number(tick)) }],
  };
}

function legend(settings, places) {
  return el(
    "ul",
    { class: "legend" },
    settings.map((one) => {
      const at = places.indexOf(one.setting);
      const runs = one.runs.length > 1 ? `, ${one.runs.length} runs, mean with 95 % interval` : one.span > 1 ? `, mean of ${one.span} rounds` : "";
      return el("li", {}, sample(at), ` ${one.setting}: ${number(one.mean.at(-1))}${runs}`);
    }),
  );
}

function sample(at) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ width: 28, height: 10, "aria-hidden": "true" })) svg.setAttribute(name, value);
  const shown = { x1: 0, x2: 28, y1: 5, y2: 5, stroke: colour(at), "stroke-width": 2, "stroke-dasharray": dash(at).join(" ") };
  for (const [name, value] of Object.entries(shown)) line.setAttribute(name, value);
  svg.append(line);
  return svg;
}

function spoken(title, settings) {
  const each = settings.map(
    (one) => `${one.setting}: from ${number(one.mean[0])} in round ${one.rounds[0]} to ${number(one.mean.at(-1))} in round ${one.rounds.at(-1)}`,
  );
  return `${title}. ${each.slice(0, 8).join("; ")}`;
}
