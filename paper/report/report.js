"use strict";
(() => {
  const models = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";

  function node(parent, name, attributes = {}, text = null) {
    const made = parent instanceof SVGElement ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return parent.appendChild(made);
  }
  const plain = (x, places) => (Number(x.toFixed(places)) === 0 ? 0 : x).toFixed(places).replace("-", "−");
  const signed = (x, places) => (Number(x.toFixed(places)) > 0 ? "+" : "") + plain(x, places);

  // Round steps for an axis from low to high.
  function ticks(low, high, wanted) {
    const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw);
    const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push([k * step, plain(k * step, places)]);
    return found;
  }

  // An empty plot with axes and, above, the series' names; returns how values become places. xs: [value, label] of the ticks.
  function frame(svg, names, xs, xRange, yRange, xTitle, yTitle) {
    svg.replaceChildren();
    const width = Math.max(320, Math.min(960, svg.clientWidth || 720)), room = 18 * names.length;
    const height = room + Math.round(Math.max(240, width * svg.dataset.ratio));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const box = { left: 66, right: width - 14, top: 14 + room, bottom: height - 46 };
    const x = (v) => box.left + ((v - xRange[0]) / (xRange[1] - xRange[0])) * (box.right - box.left);
    const y = (v) => box.bottom - ((v - yRange[0]) / (yRange[1] - yRange[0])) * (box.bottom - box.top);
    for (const [value, label] of ticks(...yRange, 5)) {
      node(svg, "line", { class: "tick", x1: box.left, x2: box.right, y1: y(value), y2: y(value) });
      node(svg, "text", { x: box.left - 8, y: y(value) + 4, "text-anchor": "end" }, label);
    }
    for (const [value, label] of xs) node(svg, "text", { x: x(value), y: box.bottom + 18, "text-anchor": "middle" }, label);
    node(svg, "line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
    node(svg, "text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, xTitle);
    const mid = (box.top + box.bottom) / 2;
    node(svg, "text", { x: 16, y: mid, "text-anchor": "middle", transform: `rotate(-90 16 ${mid})` }, yTitle);
    names.forEach((name, k) => {
      symbol(svg, k, box.left + 8, 10 + 18 * k, 4.5, { class: `p${k % 4}` });
      node(svg, "text", { x: box.left + 20, y: 14 + 18 * k }, name);
    });
    return { x, y, box };
  }
  function place(svg, event) { // in the coordinates of the plot
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [at.x, at.y];
  }
  function symbol(parent, kind, x, y, size, attributes) { // shapes as well as colours tell series apart
    const shapes = [
      () => node(parent, "circle", { cx: x, cy: y, r: size, ...attributes }),
      () => node(parent, "path", { d: `M${x} ${y - size * 1.2}L${x + size * 1.1} ${y + size * 0.8}L${x - size * 1.1} ${y + size * 0.8}Z`, ...attributes }),
      () => node(parent, "rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...attributes }),
      () => node(parent, "path", { d: `M${x} ${y - size * 1.3}L${x + size * 1.3} ${y}L${x} ${y + size * 1.3}L${x - size * 1.3} ${y}Z`, ...attributes }),
    ];
    return shapes[kind % 4]();
  }
  const span = (values, least) => {
    const low = Math.min(...values), high = Math.max(...values), pad = Math.max(0.06 * (high - low), least);
    return [low - pad, high + pad];
  };

  // Everything interactive on one model; returns what draws its plots again.
  function start(model) {
    const data = models[model], $ = (id) => document.getElementById(`${id}-${model}`);

    // Layers.
    function layers() {
      const svg = $("scan-plot"), chosen = (name) => $("scan").querySelector(`input[name^="${name}-"]:checked`).value;
      const SERIES = { cosine: [["cosine", "translations"], ["random", "random pairs"], ["published", "published pilot, trained pairs"]],
        p1: [["p1_sw_en", "P@1 sw→en"], ["p1_en_sw", "P@1 en→sw"]] };
      let rows = [], shown = null, at = null, guide = null, series = [];
      function draw() {
        const measure = chosen("measure");
        rows = data.scan.filter((row) => row.pooling === chosen("pooling"));
        series = SERIES[measure].filter(([key]) => rows.some((row) => row[key] !== null));
        const values = series.flatMap(([key]) => rows.map((row) => row[key])).filter((v) => v !== null);
        const range = measure === "cosine" ? [Math.min(0, ...values), 1.02] : [0, span(values, 0.005)[1]];
        const every = Math.ceil(rows.length / 18);
        const xs = rows.map((row, k) => [k, row.layer]).filter(([k]) => k % every === 0 || k === rows.length - 1);
        shown = frame(svg, series.map(([, name]) => name), xs, [-0.5, rows.length - 0.5], range, "layer", measure === "cosine" ? "mean cosine" : "P@1, all pairs");
        guide = node(svg, "line", { class: "guide", y1: shown.box.top, y2: shown.box.bottom, x1: -9, x2: -9 });
        series.forEach(([key], k) => {
          const points = rows.map((row, i) => [shown.x(i), row[key]]).filter(([, v]) => v !== null).map(([x, v]) => [x, shown.y(v)]);
          if (key !== "published") node(svg, "path", { class: `line s${k}`, d: "M" + points.map((p) => p.join(" ")).join("L") });
          for (const [x, y] of points) symbol(svg, k, x, y, 4, { class: `p${k}` });
        });
        at = null;
        $("scan-text").textContent = "Point at a layer, or use the arrow keys.";
      }
      function read(k) {
        at = Math.max(0, Math.min(rows.length - 1, k));
        guide.setAttribute("x1", shown.x(at)); guide.setAttribute("x2", shown.x(at));
        const values = series.filter(([key]) => rows[at][key] !== null).map(([key, name]) => `${name} ${plain(rows[at][key], 4)}`);
        $("scan-text").textContent = `Layer ${rows[at].layer}, ${rows[at].pooling} pooling: ${values.join(", ")}`;
      }
      svg.addEventListener("pointermove", (event) => read(Math.round((place(svg, event)[0] - shown.x(0)) / (shown.x(1) - shown.x(0)))));
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (step) { event.preventDefault(); read(at === null ? 0 : at + step); }
      });
      for (const input of $("scan").querySelectorAll("input")) input.addEventListener("change", draw);
      draw();
      return draw;
    }

    // Word pairs.
    function pairs() {
      const { views, names, rows, first } = data.pairs, svg = $("pair-plot"), search = $("pair-search");
      views.forEach((view, k) => {
        const option = node($("pair-view"), "option", { value: k }, names[k] ? `${view} (${names[k]})` : view);
        if (view === first) option.selected = true;
      });
      let seen = [];
      const asked = () => search.value.trim().toLowerCase();
      const matches = (row, word) => row[0].toLowerCase().includes(word) || row[1].toLowerCase().includes(word);
      function draw() {
        const k = Number($("pair-view").value), word = asked();
        const kept = rows.filter((row) => $(row[2] === "trained" ? "pair-trained" : "pair-control").checked);
        const all = rows.flatMap((row) => [row[3][k], row[4][k]]), range = span(all, 0.01);
        const shown = frame(svg, ["trained", "unseen"], ticks(...range, 6), range, range, "cosine before", "cosine after");
        node(svg, "line", { class: "guide", x1: shown.x(range[0]), y1: shown.y(range[0]), x2: shown.x(range[1]), y2: shown.y(range[1]) });
        seen = kept.map((row) => ({ row, x: shown.x(row[3][k]), y: shown.y(row[4][k]), hit: word !== "" && matches(row, word) }));
        for (const one of [...seen].sort((a, b) => a.hit - b.hit)) {
          const kind = one.row[2] === "trained" ? 0 : 1;
          symbol(svg, kind, one.x, one.y, one.hit ? 6 : 3.2, { class: one.hit ? "hit" : `dot p${kind}${word ? " dim" : ""}` });
        }
        const found = seen.filter((one) => one.hit);
        const down = seen.filter((one) => one.row[4][k] < one.row[3][k]).length;
        $("pair-text").textContent = word ? `${found.length} of ${seen.length} pairs match “${search.value.trim()}”.`
          : `${seen.length} pairs at ${views[k]}: the cosine of ${down} falls. Point at one, or search for a word.`;
        list(found.slice(0, 25).map((one) => one.row));
      }
      function list(found) {
        $("pair-matches").replaceChildren();
        if (!found.length) return;
        const table = node($("pair-matches"), "table"), head = node(node(table, "thead"), "tr"), body = node(table, "tbody");
        for (const title of ["pair", "set", ...views]) node(head, "th", { scope: "col" }, title);
        for (const row of found) {
          const line = node(body, "tr");
          node(line, "th", { scope: "row" }, `${row[0]} / ${row[1]}`);
          node(line, "td", {}, row[2] === "trained" ? "trained" : "unseen");
          views.forEach((_, k) => node(line, "td", { class: "n" }, `${plain(row[3][k], 3)} → ${plain(row[4][k], 3)}`));
        }
      }
      svg.addEventListener("pointermove", (event) => {
        const [x, y] = place(svg, event), k = Number($("pair-view").value);
        let near = null, best = 14 ** 2;
        for (const one of seen) {
          const away = (one.x - x) ** 2 + (one.y - y) ** 2;
          if (away < best) [near, best] = [one.row, away];
        }
        if (near) $("pair-text").textContent = `${near[0]} / ${near[1]}: ${plain(near[3][k], 4)} before, ${plain(near[4][k], 4)} after (${signed(near[4][k] - near[3][k], 4)})`;
      });
      for (const id of ["pair-view", "pair-trained", "pair-control"]) $(id).addEventListener("change", draw);
      search.addEventListener("input", draw);
      draw();
      return draw;
    }

    // Rank.
    function curves() {
      const svg = $("curve-plot");
      for (const name of Object.keys(data.curves)) node($("curve-outcome"), "option", {}, name);
      function draw() {
        const name = $("curve-outcome").value, points = data.curves[name].map(([rank, change, low, high]) => ({ rank, change, low, high }));
        const values = points.flatMap((p) => [p.change, p.low, p.high]).filter((v) => v !== null);
        const ticks = points.map((p, k) => [k, p.rank]);
        const shown = frame(svg, [name], ticks, [-0.5, points.length - 0.5], span([0, ...values], 0.5), "LoRA rank", "change, points");
        node(svg, "line", { class: "guide", x1: shown.box.left, x2: shown.box.right, y1: shown.y(0), y2: shown.y(0) });
        node(svg, "path", { class: "line s0", d: "M" + points.map((p, k) => `${shown.x(k)} ${shown.y(p.change)}`).join("L") });
        points.forEach((p, k) => {
          if (p.low !== null && p.high !== null) node(svg, "line", { class: "line s0", x1: shown.x(k), x2: shown.x(k), y1: shown.y(p.low), y2: shown.y(p.high) });
          symbol(svg, 0, shown.x(k), shown.y(p.change), 4.5, { class: "p0" });
        });
        const texts = points.map((p) => `rank ${p.rank} ${signed(p.change, 1)}` + (p.low === null ? "" : ` (${signed(p.low, 1)} to ${signed(p.high, 1)})`));
        $("curve-text").textContent = `${name}: ${texts.join(", ")}`;
      }
      $("curve-outcome").addEventListener("change", draw);
      draw();
      return draw;
    }

    // Items.
    function items() {
      const PAGE = 10;
      let from = 0;
      data.items.forEach((set, k) => node($("item-set"), "option", { value: k }, set.name));
      const KEEP = {
        all: () => true, flipped: (i) => i[5] !== i[6], won: (i) => i[5] !== i[2] && i[6] === i[2],
        lost: (i) => i[5] === i[2] && i[6] !== i[2], wrong: (i) => i[6] !== i[2],
      };
      function draw() {
        const set = data.items[Number($("item-set").value)], word = $("item-search").value.trim().toLowerCase();
        const kept = set.rows.filter(KEEP[$("item-filter").value])
          .filter((item) => !word || [item[0], ...item[1]].join(" ").toLowerCase().includes(word));
        from = Math.max(0, Math.min(from, PAGE * Math.floor((kept.length - 1) / PAGE)));
        const number = set.number > set.rows.length ? `the first ${set.rows.length} of ${set.number} items` : `${set.number} items`;
        $("item-text").textContent = `${kept.length} of ${number}` + (kept.length ? `; ${from + 1} to ${Math.min(from + PAGE, kept.length)} are shown` : "");
        $("item-list").replaceChildren();
        for (const [context, options, label, before, after, first, last] of kept.slice(from, from + PAGE)) {
          const line = node($("item-list"), "li");
          if (context) node(line, "p", {}, `${context} …`);
          const table = node(line, "table"), head = node(node(table, "thead"), "tr"), body = node(table, "tbody");
          for (const [title, side] of [["choice", ""], ["log p before", "n"], ["log p after", "n"]]) node(head, "th", { scope: "col", class: side }, title);
          options.forEach((option, k) => {
            const row = node(body, "tr");
            node(row, "th", { scope: "row", class: k === label ? "right" : "" }, option.trim() + (k === label ? " ✓ right answer" : ""));
            node(row, "td", { class: "n" }, plain(before[k], 2) + (k === first ? " ◄" : ""));
            node(row, "td", { class: "n" }, plain(after[k], 2) + (k === last ? " ◄" : ""));
          });
          if (first !== last) node(line, "p", { class: "flip" }, first === label ? "Right before, wrong after" : last === label ? "Wrong before, right after" : "Another wrong answer");
        }
        $("item-back").disabled = from === 0;
        $("item-next").disabled = from + PAGE >= kept.length;
      }
      const restart = () => { from = 0; draw(); };
      for (const id of ["item-set", "item-filter"]) $(id).addEventListener("change", restart);
      $("item-search").addEventListener("input", restart);
      $("item-back").addEventListener("click", () => { from -= PAGE; draw(); });
      $("item-next").addEventListener("click", () => { from += PAGE; draw(); });
      draw();
    }

    if ($("item-list")) items();
    return [$("scan-plot") && layers(), pairs(), $("curve-plot") && curves()].filter(Boolean);
  }

  // One model is shown at a time. Its plots are first drawn when it is shown: a hidden plot has no width.
  const parts = [...document.querySelectorAll(".model")], chooser = document.getElementById("model"), started = {};
  let current = null, width = window.innerWidth;
  function show(model) {
    current = model;
    for (const part of parts) part.hidden = part.dataset.model !== model;
    if (chooser) chooser.value = model;
    if (started[model]) started[model].forEach((draw) => draw());
    else started[model] = start(model);
  }
  function follow() { // an address that names a part of a model shows that model
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const part = target && target.closest(".model");
    if (part && part.dataset.model !== current) {
      show(part.dataset.model);
      target.scrollIntoView();
    }
  }
  if (chooser) {
    document.getElementById("switch").hidden = false;
    chooser.addEventListener("change", () => show(chooser.value));
  }
  show(parts[0].dataset.model);
  follow();
  window.addEventListener("hashchange", follow);
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) { width = window.innerWidth; started[current].forEach((draw) => draw()); }
  });
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
})();
