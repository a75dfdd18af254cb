"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");

// -- small helpers: text is always set as text, never as markup

function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.map((c) => (typeof c === "number" ? String(c) : c)));
  return node;
}
function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}
const label = (i) => (i === data.error ? "error" : data.labels[i]);
const last = (i) => label(i).split(" > ").pop();
const percent = (x, digits = 1) => (x === null ? "–" : (100 * x).toFixed(digits) + " %");
const color = (k) => `var(--arm${k % 5})`;

function section(id, title, ...children) {
  document.getElementById("nav").append(el("a", { href: "#" + id }, title));
  const node = el("section", { id }, el("h2", {}, title), ...children);
  main.append(node);
  return node;
}
function table(heads, rows, textColumns = 1) {
  const cell = (tag) => (text, i) => el(tag, { class: i < textColumns ? "text" : null }, text);
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map(cell("th")))),
    el("tbody", {}, ...rows.map((row) =>
      el("tr", {}, ...heads.map((_, i) => cell("td")(row[i] ?? "", i)))))));
}
function legend() {
  return el("div", { class: "legend" }, ...data.arms.map((arm, k) =>
    el("span", {}, el("i", { style: `background:${color(k)}` }), arm)));
}

/* Pages of `size` entries below a body that `draw(entries)` fills; returns what shows other entries. */
function pager(draw, size = 50) {
  let entries = [], page = 0;
  const count = el("span", { class: "count" });
  const back = el("button", { type: "button", "aria-label": "previous page", onclick: () => go(page - 1) }, "‹");
  const next = el("button", { type: "button", "aria-label": "next page", onclick: () => go(page + 1) }, "›");
  function go(to) {
    const pages = Math.max(1, Math.ceil(entries.length / size));
    page = Math.min(Math.max(0, to), pages - 1);
    const from = page * size, end = Math.min(entries.length, from + size);
    count.textContent = entries.length ? `${from + 1}–${end} of ${entries.length.toLocaleString("en")}` : "nothing fits";
    back.disabled = page === 0;
    next.disabled = page === pages - 1;
    draw(entries.slice(from, end));
  }
  return {
    bar: el("div", { class: "tools pager" }, back, count, next),
    show(all) { entries = all; go(0); },
  };
}

// -- charts: the unit square, both axes from 0 to 1

const W = 420, H = 300, LEFT = 42, BOTTOM = 34;
const X = (x) => LEFT + x * (W - LEFT - 12);
const Y = (y) => H - BOTTOM - y * (H - BOTTOM - 12);

function chart(title, xName, yName, draw, yMost = 1, yLeast = 0) {
  const box = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  for (let i = 0; i <= 5; i++) {
    const t = i / 5;
    box.append(
      svg("line", { class: "axis", x1: X(0), x2: X(1), y1: Y(t), y2: Y(t) }),
      svg("text", { x: LEFT - 5, y: Y(t) + 4, "text-anchor": "end" }, (100 * (yLeast + t * (yMost - yLeast))).toFixed(yMost - yLeast < 0.1 ? 1 : 0)),
      svg("text", { x: X(t), y: H - BOTTOM + 15, "text-anchor": "middle" }, (100 * t).toFixed(0)));
  }
  box.append(svg("text", { x: X(0.5), y: H - 4, "text-anchor": "middle" }, xName),
    svg("text", { x: 11, y: Y(0.5), "text-anchor": "middle", transform: `rotate(-90 11 ${Y(0.5)})` }, yName));
  draw(box);
  return box;
}
function path(points, k, dashed) {
  const d = points.map(([x, y], i) => (i ? "L" : "M") + X(x).toFixed(1) + " " + Y(y).toFixed(1)).join("");
  return svg("path", { d, fill: "none", stroke: color(k), "stroke-width": 2, "stroke-dasharray": dashed ? "5 3" : "none" });
}
function marker(x, y, r, k, text) {
  const shape = k % 2
    ? svg("rect", { x: X(x) - r, y: Y(y) - r, width: 2 * r, height: 2 * r })
    : svg("circle", { cx: X(x), cy: Y(y), r });
  shape.setAttribute("fill", color(k));
  shape.setAttribute("fill-opacity", 0.75);
  shape.append(svg("title", {}, text));
  return shape;
}

function reliability() {
  return chart("Reliability", "confidence, %", "right, %", (box) => {
    box.append(svg("line", { class: "axis", x1: X(0), y1: Y(0), x2: X(1), y2: Y(1), "stroke-dasharray": "3 3" }));
    data.arms.forEach((arm, k) => {
      const bins = data.reliability[arm];
      box.append(path(bins.map((b) => [b[1], b[2]]), k, k % 2));
      for (const [share, sure, right] of bins)
        box.append(marker(sure, right, 3.5, k, `${arm}: said ${percent(sure)}, right ${percent(right)}, ${percent(share)} of the items`));
    });
  });
}
function riskCoverage() {
  const most = Math.max(0.02, ...data.arms.flatMap((arm) => data.risk_coverage[arm].map((p) => p[1])));
  const top = Math.min(1, Math.ceil(most * 20) / 20);
  return chart("Risk and coverage", "taken, the surest first, %", "wrong among them, %", (box) => {
    data.arms.forEach((arm, k) => {
      const curve = data.risk_coverage[arm];
      box.append(path(curve.map((p) => [p[0], p[1] / top]), k, k % 2));
      const at = curve[curve.length - 1];
      if (at) box.append(marker(at[0], at[1] / top, 3.5, k, `${arm}: all taken, ${percent(at[1])} wrong`));
    });
  }, top);
}
function accuracySent() {
  const all = data.arms.flatMap((arm) => (data.sent[arm] || []).map((p) => p[1]));
  const low = Math.floor(Math.min(...all) * 20) / 20, top = Math.min(1, Math.max(low + 0.05, Math.ceil(Math.max(...all) * 20) / 20));
  return chart("Accuracy against what is sent", "sent to the model, the least sure first, %", "right, %", (box) => {
    data.arms.forEach((arm, k) => {
      const curve = (data.sent[arm] || []).map(([share, right]) => [share, (right - low) / (top - low), right]);
      if (!curve.length) return;
      box.append(path(curve, k, k % 2));
      for (const [share, y, right] of curve)
        box.append(marker(share, y, 3, k, `${arm}: ${percent(share)} sent, ${percent(right)} right`));
    });
  }, top, low);
}

// -- classes

function classes() {
  const by = new Map();
  data.arms.forEach((arm, k) => {
    for (const c of data.classes[arm]) {
      if (!by.has(c[0])) by.set(c[0], { label: c[0], support: c[1], arms: [] });
      by.get(c[0]).arms[k] = c;
    }
  });
  const all = [...by.values()].filter((c) => c.support || c.arms.some((a) => a && a[2]));
  const f1 = (c, k) => (c.arms[k] ? c.arms[k][5] : null);
  const f1OrLeast = (c, k) => f1(c, k) ?? -1;
  const orders = {
    "most items": (a, b) => b.support - a.support,
    "worst F1": (a, b) => f1OrLeast(a, data.arms.length - 1) - f1OrLeast(b, data.arms.length - 1),
    name: (a, b) => label(a.label).localeCompare(label(b.label)),
  };
  if (data.arms.length > 1)
    orders["largest change"] = (a, b) =>
      Math.abs(f1OrLeast(b, 1) - f1OrLeast(b, 0)) - Math.abs(f1OrLeast(a, 1) - f1OrLeast(a, 0));
  const body = el("tbody");
  const pages = pager((entries) => body.replaceChildren(...entries.map((c) =>
    el("tr", {}, el("td", { class: "text" }, label(c.label)), el("td", {}, c.support),
      el("td", { class: "bars" }, ...data.arms.map((arm, k) => {
        const value = f1(c, k);
        return el("div", { title: `${arm}: F1 ${percent(value)}` },
          el("span", { class: "bar", style: `background:${color(k)};width:${60 * (value ?? 0)}%` }),
          " " + (value === null ? "–" : (100 * value).toFixed(0)));
      })),
      ...data.arms.flatMap((_, k) => [3, 4].map((i) => el("td", {}, c.arms[k] ? percent(c.arms[k][i], 0) : "–")))))), 20);
  const select = el("select", { "aria-label": "order of the classes", onchange: () => show() },
    ...Object.keys(orders).map((name) => el("option", {}, name)));
  const show = () => pages.show([...all].sort(orders[select.value]));
  const heads = ["class", "items", "F1, %", ...data.arms.flatMap((arm) => [`${arm}: precision`, "recall"])];
  section("classes", "Classes", legend(), el("div", { class: "tools" }, select),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, ...heads.map((h, i) => el("th", { class: i === 0 || i === 2 ? "text" : null }, h)))), body)),
    pages.bar);
  show();
}

// -- confusions: one dot per pair, so that 300 classes take no more room than 30

function confusions(filterRows) {
  const order = data.classes[data.arms[0]].map((c) => c[0]);
  for (const arm of data.arms) for (const c of data.classes[arm]) if (!order.includes(c[0])) order.push(c[0]);
  for (const arm of data.arms) for (const [g, p] of data.confusions[arm]) for (const i of [g, p]) if (!order.includes(i)) order.push(i);
  const at = new Map(order.map((i, n) => [i, n]));
  const parts = data.arms.map((arm, k) => {
    const pairs = data.confusions[arm];
    const named = order.length <= 40;
    const left = named ? 150 : 26, size = named ? 15 : Math.max(2, 560 / order.length), side = size * order.length;
    const right = data.classes[arm].map((c) => [c[0], c[1], c[4]]);
    const most = Math.max(1, ...pairs.map((p) => p[2]), ...right.map((r) => (r[2] ?? 0) * r[1]));
    const box = svg("svg", { class: "matrix", viewBox: `0 0 ${left + side + 8} ${left + side + 8}`, role: "img",
      "aria-label": `confusions of ${arm}: rows are gold, columns what was given` });
    const radius = (n) => Math.max(1.1, (Math.max(size, 7) / 2) * Math.sqrt(n / most));
    box.append(svg("rect", { x: left, y: left, width: side, height: side, fill: "none", class: "axis" }));
    if (named) order.forEach((i, n) => {
      const c = left + (n + 0.5) * size;
      box.append(svg("text", { x: left - 4, y: c + 4, "text-anchor": "end" }, last(i).slice(0, 22)),
        svg("text", { x: 0, y: 0, transform: `translate(${c + 4} ${left - 4}) rotate(-90)` }, last(i).slice(0, 22)),
        svg("line", { class: "axis", x1: left, x2: left + side, y1: c, y2: c, "stroke-opacity": 0.5 }));
    });
    else box.append(svg("text", { x: left + side / 2, y: 14, "text-anchor": "middle" }, "given"),
      svg("text", { x: 12, y: left + side / 2, transform: `rotate(-90 12 ${left + side / 2})`, "text-anchor": "middle" }, "gold"));
    for (const [i, support, recall] of right) {
      const n = Math.round((recall ?? 0) * support), c = left + (at.get(i) + 0.5) * size;
      if (n) box.append(svg("circle", { cx: c, cy: c, r: radius(n), fill: "var(--soft)", "fill-opacity": 0.35 },
        svg("title", {}, `${label(i)}: ${n} right`)));
    }
    for (const [g, p, count] of pairs)
      box.append(svg("circle", { class: "dot", cx: left + (at.get(p) + 0.5) * size, cy: left + (at.get(g) + 0.5) * size,
        r: radius(count), fill: color(k), "fill-opacity": 0.85, onclick: () => filterRows(g, p, k) },
      svg("title", {}, `${label(g)} → ${label(p)}: ${count}`)));
    const body = el("tbody");
    const pages = pager((entries) => body.replaceChildren(...entries.map(([g, p, count, cost]) =>
      el("tr", {}, el("td", { class: "text" }, label(g)), el("td", { class: "text" }, label(p)), el("td", {}, count),
        el("td", {}, cost === count ? "" : cost.toFixed(2)),
        el("td", {}, el("button", { type: "button", onclick: () => filterRows(g, p, k) }, "show"))))), 10);
    pages.show(pairs);
    return el("details", k === data.arms.length - 1 ? { open: "" } : {}, el("summary", {}, `${arm}: ${pairs.length} pairs`), box,
      el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {},
        ...["gold", "given", "items", pairs.some((p) => p[2] !== p[3]) ? "cost" : "", ""].map((h, i) => el("th", { class: i < 2 ? "text" : null }, h)))), body)),
      pages.bar);
  });
  section("confusions", "Confusions", el("p", { class: "note" },
    "Rows: gold; columns: given; grey: right. A larger dot is more items; click one to see them."), ...parts);
}

// -- items

function items() {
  const n = data.arms.length;
  const right = (row, k) => row[4][k] === row[3];
  const kinds = n > 1
    ? { "the arms disagree": (r) => new Set(r[4]).size > 1,
        ...Object.fromEntries(data.arms.map((arm, k) => [`right only in ${arm}`, (r) => right(r, k) && r[4].every((_, j) => j === k || !right(r, j))])),
        "wrong in all": (r) => r[4].every((_, k) => !right(r, k)),
        "right in all": (r) => r[4].every((_, k) => right(r, k)) }
    : { wrong: (r) => !right(r, 0), right: (r) => right(r, 0) };
  const kind = el("select", { id: "kind", "aria-label": "which items", onchange: () => show() },
    ...[...Object.keys(kinds), "all items"].map((name) => el("option", {}, name)));
  const gold = el("select", { id: "gold", "aria-label": "gold label", onchange: () => show() },
    el("option", { value: "" }, "any gold label"),
    ...[...new Set(data.rows.map((r) => r[3]))].sort((a, b) => label(a).localeCompare(label(b)))
      .map((i) => el("option", { value: i }, label(i))));
  const search = el("input", { id: "search", type: "search", placeholder: "search in text, id and labels", "aria-label": "search" });
  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(show, 120); });
  let pair = null;
  const only = el("button", { type: "button", hidden: "", onclick: () => { pair = null; show(); } });
  const body = el("tbody");
  const heads = ["item", "gold", ...data.arms];
  const pages = pager((rows) => body.replaceChildren(...rows.map(item)));
  function item(row) {
    const cells = [el("td", { class: "text" }, row[2] || "(no text)"),
      el("td", { class: "text", "data-head": "gold" }, label(row[3])),
      ...data.arms.map((arm, k) => el("td", { class: "text", "data-head": arm },
        el("span", { class: right(row, k) ? "right" : "wrong" }, right(row, k) ? "" : label(row[4][k])),
        row[5][k] === null ? "" : el("span", { class: "p" }, ` ${percent(row[5][k], 0)}`)))];
    const tr = el("tr", { class: "item", tabindex: 0, "aria-expanded": "false", onclick: toggle,
      onkeydown: (e) => { if (e.key === "Enter") toggle(); } }, ...cells);
    function toggle() {
      if (tr.nextSibling && tr.nextSibling.classList.contains("open")) { tr.nextSibling.remove(); tr.setAttribute("aria-expanded", "false"); return; }
      tr.setAttribute("aria-expanded", "true");
      tr.after(el("tr", { class: "open" }, el("td", { class: "details", colspan: heads.length }, ...details(row))));
    }
    return tr;
  }
  function details(row) {
    const facts = [["row", row[0]], ["id", row[1]], ...Object.entries(row[7] ?? {}), ["gold", label(row[3])],
      ...data.arms.map((arm, k) => [arm, `${label(row[4][k])}${row[5][k] === null ? "" : ", " + percent(row[5][k])}${row[6][k] ? " (" + row[6][k] + ")" : ""}`])];
    return [el("dl", {}, ...facts.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
      ...data.arms.map((arm) => {
        const asks = data.prompts[arm].asks[row[0]];
        const box = el("details", {}, el("summary", {}, `the prompt of ${arm}`));
        box.addEventListener("toggle", () => {
          if (!box.open || box.childElementCount > 1) return;
          if (!asks) { box.append(el("p", { class: "note" }, `not here (an exact duplicate, or further down the list): see ${arm}.asks.jsonl`)); return; }
          for (const [key, tail] of asks)
            for (const m of [...(data.prompts[arm].shared[key] ?? []), ...tail])
              box.append(el("div", { class: "note" }, m.role), el("pre", {}, typeof m.content === "string" ? m.content : JSON.stringify(m.content, null, 1)));
        });
        return box;
      })];
  }
  const haystack = data.rows.map(() => null);
  function text(row, i) {
    return (haystack[i] ??= [row[2], row[1], label(row[3]), ...row[4].map(label), ...Object.values(row[7] ?? {})].join("\n").toLowerCase());
  }
  function show() {
    const fits = kinds[kind.value] ?? (() => true), words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    only.hidden = !pair;
    if (pair) only.textContent = `${label(pair[0])} → ${label(pair[1])} in ${data.arms[pair[2]]} ✕`;
    pages.show(data.rows.filter((row, i) => (pair ? row[3] === pair[0] && row[4][pair[2]] === pair[1] : fits(row) && (gold.value === "" || row[3] === Number(gold.value)))
      && words.every((word) => text(row, i).includes(word))));
  }
  const left = data.total > data.rows.length ? ` The page holds ${data.rows.length.toLocaleString("en")} of ${data.total.toLocaleString("en")} items, the telling ones first; all are in the predictions files.` : "";
  const node = section("items", "Items", el("p", { class: "note" }, `Click an item for its prompts.${left}`),
    el("div", { class: "tools" }, kind, gold, search, only),
    el("div", { class: "scroll" }, el("table", { id: "rows" }, el("thead", {}, el("tr", {}, ...heads.map((h) => el("th", { class: "text" }, h)))), body)),
    pages.bar);
  show();
  return (g, p, k) => { pair = [g, p, k]; search.value = ""; show(); node.scrollIntoView({ block: "start" }); };
}

// -- the page

document.title = `llmcat: ${data.title}`;
document.getElementById("file").textContent = data.file.replaceAll("\n", ", ");
document.getElementById("line").textContent = data.line;
document.getElementById("remarks").append(...data.remarks.map((r) => el("li", {}, r)));
const sections = data.sections.map((s, i) => [s, `s${i}`]);
const isFirst = ([s]) => s.title !== "Arms" && !s.title.startsWith("Confused") && !s.title.startsWith("Segments") && s.title !== "Errors";
const put = ([s, id]) => section(id, s.title, table(s.heads, s.rows, s.text), ...s.notes.map((n) => el("p", { class: "note" }, n)));
sections.filter(isFirst).forEach(put);
if (data.arms.some((arm) => data.reliability[arm].length)) {
  const charts = el("div", { class: "two" });
  main.append(charts);
  for (const [id, title, draw, note] of [
    ["reliability", "Reliability", reliability, "Bins of equal mass; on the diagonal, what is said is what is right."],
    ["risk", "Risk and coverage", riskCoverage, "Errors among what is taken, when the surest are taken first."]])
    charts.append(section(id, title, legend(), draw(), el("p", { class: "note" }, note)));
}
if (data.arms.some((arm) => data.sent[arm])) {
  const half = el("div", { class: "two" });
  main.append(half);
  half.append(section("sent", "Accuracy against what is sent", legend(), accuracySent(),
    el("p", { class: "note" }, "Left, retrieval alone; right, the model reads every item. --skip-sure stands between them: calibrate or tune draws its line.")));
}
sections.filter(([s]) => s.title.startsWith("Segments")).forEach(put);
classes();
let filterRows = () => {};
confusions((...pair) => filterRows(...pair));
filterRows = items();
sections.filter(([s]) => s.title === "Errors" || s.title === "Arms").forEach(put);
