"use strict";
// Pan, zoom, search and the panel of a node. The picture is the SVG in the page; the data of the panel is JSON in it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const picture = document.getElementById("picture");
  const panel = document.getElementById("panel");
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const whole = { x: 0, y: 0, w: data.width, h: data.height };
  const boxes = new Map();
  for (const box of picture.querySelectorAll(".box[data-name]")) boxes.set(box.dataset.name, box);
  const wires = [...picture.querySelectorAll(".wire[data-from]")];
  let view = { ...whole };

  const show = () => picture.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);

  function fit() {
    view = { ...whole };
    show();
  }

  // SVG points per pixel, and the point at the top left of the element (the picture is centred in it).
  function scale() {
    const area = picture.getBoundingClientRect();
    const per = Math.max(view.w / area.width, view.h / area.height);
    return { per, left: view.x - (area.width * per - view.w) / 2, top: view.y - (area.height * per - view.h) / 2, area };
  }

  function zoom(factor, clientX, clientY) {
    const { per, left, top, area } = scale();
    const px = (clientX ?? area.left + area.width / 2) - area.left;
    const py = (clientY ?? area.top + area.height / 2) - area.top;
    const w = Math.min(Math.max(view.w / factor, 60), whole.w * 4);
    const real = view.w / w;
    const at = { x: left + px * per, y: top + py * per };
    view = { x: at.x - (at.x - view.x) / real, y: at.y - (at.y - view.y) / real, w, h: view.h / real };
    show();
  }

  function pan(dx, dy) {
    const { per } = scale();
    view.x -= dx * per;
    view.y -= dy * per;
    show();
  }

  function centre(name) {
    const box = boxes.get(name).getBBox();
    const w = Math.min(whole.w, 900);
    const h = (w * whole.h) / whole.w;
    if (view.w > w) view = { x: 0, y: 0, w, h };
    view.x = box.x + box.width / 2 - view.w / 2;
    view.y = box.y + box.height / 2 - view.h / 2;
    show();
  }

  function element(tag, text, parent, className) {
    const node = document.createElement(tag);
    node.textContent = text;
    if (className) node.className = className;
    parent.append(node);
    return node;
  }

  function link(name, parent) {
    const node = element("a", name, parent);
    node.href = "#" + encodeURIComponent(name);
    node.addEventListener("click", (event) => {
      event.preventDefault();
      choose(name);
      centre(name);
    });
  }

  function list(title, rows, fill) {
    if (!rows.length) return;
    element("h2", title, panel);
    const items = element("ul", "", panel);
    for (const row of rows) fill(row, element("li", "", items));
  }

  function describe(name) {
    const box = data.boxes[name];
    panel.replaceChildren();
    const close = element("button", "×", panel);
    close.id = "close";
    close.title = "close (Esc)";
    close.addEventListener("click", () => choose(null));
    element("h1", name, panel);
    element("div", [box.type, box.place].filter(Boolean).join(" · "), panel, "type");
    if (box.doc) element("p", box.doc, panel, "doc");
    list(data.measured || "numbers", box.numbers, (text, item) => element("span", text, item));
    list("inputs", box.inputs, (input, item) => {
      element("span", `${input.socket} ← `, item);
      link(input.origin, item);
      element("span", ` ${input.label}`, item, "type");
    });
    list("outputs", box.outputs, (output, item) => {
      element("span", `${output.label} → `, item);
      link(output.reader, item);
      element("span", `.${output.socket}`, item);
    });
    list("params", box.params, ([param, value], item) => {
      element("span", param, item);
      element("pre", value, item);
    });
    panel.hidden = false;
  }

  function choose(name) {
    for (const marked of picture.querySelectorAll(".near, .box.chosen")) marked.classList.remove("near", "chosen");
    picture.classList.toggle("chosen", name !== null);
    if (name === null) {
      panel.hidden = true;
      return;
    }
    boxes.get(name).classList.add("near", "chosen");
    for (const wire of wires) {
      if (wire.dataset.from !== name && wire.dataset.to !== name) continue;
      wire.classList.add("near");
      boxes.get(wire.dataset.from).classList.add("near");
      boxes.get(wire.dataset.to).classList.add("near");
    }
    describe(name);
  }

  let hits = [];
  function look() {
    const wanted = search.value.trim().toLowerCase();
    for (const box of boxes.values()) box.classList.remove("hit");
    hits = wanted ? [...boxes.keys()].filter((name) => matches(name, wanted)) : [];
    for (const name of hits) boxes.get(name).classList.add("hit");
    found.textContent = wanted ? `${hits.length} found` : "";
  }

  function matches(name, wanted) {
    return name.toLowerCase().includes(wanted) || data.boxes[name].type.toLowerCase().includes(wanted);
  }

  let start = null;
  picture.addEventListener("pointerdown", (event) => {
    start = { x: event.clientX, y: event.clientY, moved: false };
  });
  window.addEventListener("pointermove", (event) => {
    if (!start) return;
    const dx = event.clientX - start.x;
    const dy = event.clientY - start.y;
    if (!start.moved && Math.hypot(dx, dy) < 4) return;
    picture.classList.add("dragged");
    pan(dx, dy);
    start = { x: event.clientX, y: event.clientY, moved: true };
  });
  window.addEventListener("pointerup", (event) => {
    picture.classList.remove("dragged");
    const clicked = start && !start.moved && picture.contains(event.target);
    start = null;
    if (!clicked) return;
    const box = event.target.closest(".box[data-name]");
    choose(box ? box.dataset.name : null);
  });
  picture.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0015), event.clientX, event.clientY);
  }, { passive: false });

  document.getElementById("in").addEventListener("click", () => zoom(1.3));
  document.getElementById("out").addEventListener("click", () => zoom(1 / 1.3));
  document.getElementById("fit").addEventListener("click", fit);
  search.addEventListener("input", look);
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !hits.length) return;
    const next = hits[0];
    hits = [...hits.slice(1), next];
    choose(next);
    centre(next);
  });
  const keys = {
    "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: fit, f: fit,
    ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0), ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
    "/": () => search.focus(), Escape: () => choose(null),
  };
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === search) {
      if (event.key === "Escape") search.blur();
      return;
    }
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  fit();
})();
