// Elements of text. Nothing that a run wrote is ever parsed as HTML: it becomes text nodes and attributes only.

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function table(caption, head, rows, { className = "" } = {}) {
  const cells = (row) => row.map((cell, at) => el(at === 0 ? "th" : "td", at === 0 ? { scope: "row" } : {}, cell));
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el(
      "table",
      { class: className },
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, cells(row)))),
    ),
  );
}

// Gives a table made by `table` other cells, each of text or an element; elements that are equal stay, with their focus.
export function patch(view, rows) {
  const lines = view.querySelector("tbody").rows;
  rows.forEach((row, at) => {
    row.forEach((cell, column) => {
      const place = lines[at].cells[column];
      if (typeof cell === "string") {
        if (place.textContent !== cell) place.textContent = cell;
      } else if (!place.firstElementChild?.isEqualNode(cell)) place.replaceChildren(cell);
    });
  });
}

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits, useGrouping: false });
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

export function clock(seconds) {
  return seconds ? new Date(seconds * 1000).toLocaleString("sv-SE") : "";
}

export function announce(text) {
  const status = document.getElementById("status");
  if (status.textContent !== text) status.textContent = text;
}
