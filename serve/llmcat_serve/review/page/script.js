"use strict";
const told = JSON.parse(document.getElementById("told").textContent);
const el = (id) => document.getElementById(id);
const MENU = 9, FOUND = 30;
let item = null, nodes = [], busy = false, at = -1;
// Without a server the items are here, and the answers are a file in the end.
const local = told.data && { items: told.data.items, answers: new Map(), notes: new Map(), passed: new Set(), past: [] };
el("who").value = localStorageGet("llmcat-who") || (local ? "reviewer" : "");
document.title = `${told.title} – llmcat review`;

function localStorageGet(name) { try { return localStorage.getItem(name); } catch { return ""; } }

async function load() {
  nodes = local ? told.data.nodes : await (await fetch("nodes")).json();
  for (const node of nodes) node.low = node.path.toLowerCase();
  if (local) el("save").hidden = false;
  for (const id of ["item", "choices"]) el(id).hidden = true;
  if (el("who").value) await ask("next", {}); else el("who").focus();
}

async function ask(what, body) {
  if (busy) return;
  busy = true;
  el("wrong").hidden = true;
  try {
    const reply = local ? offline(what, body) : await post(what, body);
    if (reply.error) throw new Error(reply.error);
    show(reply.item, reply.progress);
  } catch (error) {
    el("wrong").textContent = `Not stored: ${error.message}. Try again.`;
    el("wrong").hidden = false;
  } finally { busy = false; }
}

async function post(what, body) {
  const reply = await fetch(what, { method: "POST",
    headers: { "Content-Type": "application/json", "X-Llmcat": "review" },
    body: JSON.stringify({ who: el("who").value.trim(), ...body }) });
  const text = await reply.text();
  try { return JSON.parse(text); } catch { return { error: text || reply.statusText }; }
}

function offline(what, body) {
  if (what === "undo") {
    const key = local.past.pop();
    for (const kept of [local.answers, local.notes, local.passed]) kept.delete(key);
    const back = local.items.find((one) => one.key === key);
    if (back) return { item: back, progress: counted() };
  } else if (what !== "next") {
    if (what === "label") local.answers.set(body.key, body.label);
    else local.passed.add(body.key);
    if (what === "note" && body.what !== "skip") local.notes.set(body.key, body.what);
    local.past.push(body.key);
  }
  const next = local.items.find((one) => !local.answers.has(one.key) && !local.passed.has(one.key));
  return { item: next || null, progress: counted() };
}

function counted() {
  return { total: local.items.length, done: local.answers.size, by: {}, doubts: 0, kappa: null };
}

function show(next, progress) {
  item = next;
  at = -1;
  const agreed = progress.kappa && progress.kappa.kappa !== null
    ? `; two people agree on ${Math.round(100 * progress.kappa.agreed)} % of ` +
      `${progress.kappa.items} (kappa ${progress.kappa.kappa.toFixed(2)})` : "";
  el("progress").textContent = `${progress.done} of ${progress.total} checked${agreed}`;
  for (const id of ["item", "choices"]) el(id).hidden = !item;
  el("over").hidden = Boolean(item);
  el("over").textContent = local ? "Nothing is left to check: save the answers." : "Nothing is left to check.";
  el("search").value = "";
  find("");
  if (!item) return;
  const fields = Object.entries(item.shown);
  el("title").textContent = fields.length ? fields[0][1] : item.id;
  el("fields").replaceChildren(...fields.slice(1).flatMap(([name, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name; dd.textContent = value;
    return [dt, dd];
  }));
  const image = /^(https?:|data:image\/)/.test(item.said.image || "") ? item.said.image : "";
  el("image").hidden = !image;
  if (image) el("image").src = image;
  el("menu").replaceChildren(...item.said.menu.slice(0, MENU).map((one, i) =>
    line(one.label, one.path, one.p, String(i + 1))));
}

function line(label, path, p, key) {
  const li = document.createElement("li"), button = document.createElement("button");
  const name = document.createElement("span"), chance = document.createElement("span");
  button.type = "button"; name.className = "path"; name.textContent = path;
  chance.className = "p";
  chance.textContent = p === null || p === undefined ? "" : `${Math.round(100 * p)} %`;
  if (key) { const kbd = document.createElement("kbd"); kbd.textContent = key; button.append(kbd); }
  button.append(name, chance);
  button.addEventListener("click", () => choose(label));
  li.append(button);
  return li;
}

function choose(label) { if (item) ask("label", { key: item.key, label }); }

function act(what) {
  if (what === "undo") ask("undo", {});
  else if (!item) return;
  else if (what === "none") choose("none");
  else ask("note", { key: item.key, what }).then(() => {
    if (what === "taxonomy") el("progress").textContent += "; noted that the taxonomy is wrong here";
  });
}

function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let met = [];
  if (words.length) {
    for (const node of nodes) {
      if (words.every((word) => node.low.includes(word))) met.push(node);
    }
    const last = words[words.length - 1];
    met.sort((a, b) => rank(a, last) - rank(b, last) || a.path.length - b.path.length);
    met = met.slice(0, FOUND);
  }
  at = met.length ? 0 : -1;
  el("found").replaceChildren(...met.map((node, i) => {
    const li = line(node.id, node.path, null, "");
    li.setAttribute("role", "option");
    li.setAttribute("aria-selected", String(i === 0));
    li.dataset.label = node.id;
    return li;
  }));
  el("search").setAttribute("aria-expanded", String(met.length > 0));
}

function rank(node, word) {
  const name = node.low.slice(node.low.lastIndexOf(">") + 1).trim();
  return name.startsWith(word) ? 0 : name.includes(word) ? 1 : 2;
}

function move(step) {
  const all = [...el("found").children];
  if (!all.length) return;
  if (at >= 0) all[at].setAttribute("aria-selected", "false");
  at = (at + step + all.length) % all.length;
  all[at].setAttribute("aria-selected", "true");
  all[at].scrollIntoView({ block: "nearest" });
}

el("search").addEventListener("input", (event) => find(event.target.value));
el("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    move(event.key === "ArrowDown" ? 1 : -1);
  } else if (event.key === "Enter" && at >= 0) {
    event.preventDefault();
    const label = el("found").children[at].dataset.label;
    el("search").blur();
    choose(label);
  } else if (event.key === "Escape") {
    event.target.value = ""; find(""); event.target.blur();
  }
});
el("who").addEventListener("change", () => {
  try { localStorage.setItem("llmcat-who", el("who").value.trim()); } catch { /* a private window */ }
  el("who").blur();
  if (el("who").value.trim()) ask("next", {});
});
el("more").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) act(button.dataset.act);
});
el("save").addEventListener("click", () => {
  const rows = local.items.filter((one) => local.answers.has(one.key) || local.notes.has(one.key)).map((one) =>
    ({ key: `k${one.key}`, id: one.id, label: local.answers.get(one.key) || "",
      note: local.notes.get(one.key) || "", by: el("who").value.trim() }));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(rows, null, 1)], { type: "application/json" }));
  link.download = "answers.json";
  link.click();
  local.saved = local.answers.size + local.notes.size;
});
window.addEventListener("beforeunload", (event) => {
  if (local && local.answers.size + local.notes.size > (local.saved || 0)) event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { event.preventDefault(); el("search").focus(); return; }
  const place = Number(event.key) - 1;
  if (item && place >= 0 && place < Math.min(MENU, item.said.menu.length)) {
    choose(item.said.menu[place].label);
    return;
  }
  const what = { n: "none", s: "skip", u: "undo", o: "opinion", t: "taxonomy" }[event.key];
  if (what) act(what);
});
load();
