// Mouse, keyboard and controls; the last file: it starts the page.

function tip(event, text) {
  const box = $("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const width = box.offsetWidth, height = box.offsetHeight;
  box.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 6)) + "px";
  box.style.top = (event.clientY + 20 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18) + "px";
}

function pairText(frame, q, k) {
  const { view } = frame, unit = (side, u) => `${shortText(side, u, 14)} #${side.units[u][0]}`;
  const pair = `${unit(view.q, q)} → ${unit(view.k, k)}`;
  if (!view.hasRow([q])) return pair;
  const row = frame.q.length === 1 && frame.q[0] === q ? frame.row : view.row([q]);
  return `${pair}   ${number(row[k])}`;
}

// --- Canvas views ---
const canvas = $("canvas");
let drag = null;

canvas.addEventListener("pointermove", (event) => {
  const at = viewport.at(event), hit = app.current().hit(at), { frame } = app;
  if (drag && drag.side && (hit[drag.side] ?? null) !== null && hit[drag.side] !== drag.last) {
    drag.last = hit[drag.side];
    drag.moved = true;
    app.go({ [drag.side]: app.range(drag.side, drag.unit, drag.last) }, { replace: drag.pushed });
    drag.pushed = true;
  }
  app.setHover(hit.q, hit.k);
  canvas.style.cursor = hit.q !== undefined || hit.k !== undefined ? "pointer" : "default";
  if (!frame) return;
  if (hit.q !== undefined && hit.k !== undefined) tip(event, pairText(frame, hit.q, hit.k));
  else if (hit.k !== undefined && frame.lockedQ.length === 1) tip(event, pairText(frame, frame.lockedQ[0], hit.k));
  else if (hit.q !== undefined && frame.lockedK.length === 1) tip(event, pairText(frame, hit.q, frame.lockedK[0]));
  else tip(event, "");
});
canvas.addEventListener("pointerleave", (event) => { app.setHover(null, null); tip(event, ""); });
canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  const hit = app.current().hit(viewport.at(event));
  const side = hit.q !== undefined && hit.k !== undefined ? null : hit.q !== undefined ? "q" : hit.k !== undefined ? "k" : null;
  drag = { side, unit: side && hit[side], last: side && hit[side], hit, moved: false, pushed: false };
});
addEventListener("pointerup", (event) => {
  const was = drag;
  drag = null;
  if (!was || was.moved || !event.target.closest?.("#canvas")) return;
  const hit = app.current().hit(viewport.at(event)), how = { shift: event.shiftKey, toggle: event.ctrlKey || event.metaKey };
  if (hit.q !== undefined && hit.k !== undefined) {
    const { view, lockedQ, lockedK } = app.frame;
    const same = lockedQ.length === 1 && lockedK.length === 1 && lockedQ[0] === hit.q && lockedK[0] === hit.k;
    app.go(same ? { q: [], k: [] } : { q: [view.q.units[hit.q][0]], k: [view.k.units[hit.k][0]] });
  } else if (hit.q !== undefined) app.lock("q", hit.q, how);
  else if (hit.k !== undefined) app.lock("k", hit.k, how);
});

// The keyboard's cursor is a hover without a mouse.
canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
                  PageUp: [-10, 0], PageDown: [10, 0], Home: [-1e9, 0], End: [1e9, 0] };
  const step = moves[event.key], { frame } = app;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    const how = { shift: event.shiftKey, toggle: event.ctrlKey };
    if (app.hover.q !== null && app.hover.k !== null && app.state.view === "heat") {
      app.go({ q: [frame.view.q.units[app.hover.q][0]], k: [frame.view.k.units[app.hover.k][0]] });
    } else if (app.hover.k !== null && (frame.lockedQ.length || app.hover.q === null)) app.lock("k", app.hover.k, how);
    else if (app.hover.q !== null) app.lock("q", app.hover.q, how);
    return;
  }
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  event.stopPropagation();
  const clip = (side, u) => Math.max(0, Math.min(side.count - 1, u)), { q: queries, k: keys } = frame.view;
  let { q, k } = app.hover;
  if (app.state.view === "heat") {
    const started = q !== null && k !== null;
    q = clip(queries, (q ?? frame.lockedQ[0] ?? 0) + (started ? step[0] : 0));
    k = clip(keys, (k ?? frame.lockedK[0] ?? 0) + (started ? step[1] : 0));
  } else if (step[1]) {  // to the other side
    const unit = q ?? k ?? 0;
    [q, k] = step[1] > 0 ? [null, clip(keys, unit)] : [clip(queries, unit), null];
  } else if (k !== null) k = clip(keys, k + step[0]);
  else q = q === null ? (frame.lockedQ[0] ?? 0) : clip(queries, q + step[0]);
  app.setHover(q, k);
  reveal({ q, k });
  app.draw(false);
  app.say();
});

// Scrolls a token into sight, to the nearest edge or to the middle.
function reveal(hit, middle = false) {
  const view = app.current(), host = canvas;
  if (view === textView) return textView.span(hit)?.scrollIntoView({ block: middle ? "center" : "nearest" });
  const where = view.reveal(hit);
  if (!where) return;
  const scrolled = (at, from, size) => {
    const before = at < from + where.margin, after = at > from + size - 30;
    if (!before && !after) return from;
    return middle ? at - (size + where.margin) / 2 : before ? at - where.margin : at - size + 30;
  };
  if (where.y !== undefined) host.scrollTop = scrolled(where.y, host.scrollTop, host.clientHeight);
  if (where.x !== undefined) host.scrollLeft = scrolled(where.x, host.scrollLeft, host.clientWidth);
}

// --- Text view ---
// A token is hovered as query or key, as its text or the direction says; in one text, once one is
// locked, as the other end.
function textSide(side) {
  if (record.cross) return side;
  const at = app.state.dir === "at", { lockedQ, lockedK } = app.frame;
  return (at ? !lockedK.length : lockedQ.length > 0) ? "k" : "q";
}
function hoverText(token) {
  const side = token && textSide(token.side);
  app.setHover(side === "q" ? token.unit : null, side === "k" ? token.unit : null);
}
// What a click on a token locks.
function clickSide({ side }) { return record.cross ? side : app.state.dir === "at" ? "k" : "q"; }
function clickText(token, event) {
  app.lock(clickSide(token), token.unit, { shift: event.shiftKey, toggle: event.ctrlKey || event.metaKey });
}
const text = $("text");
text.addEventListener("pointerover", (event) => {
  const token = textView.tokenAt(event.target);
  if (drag && token && token.unit !== drag.last && (!record.cross || token.side === drag.side)) {
    drag.last = token.unit;
    drag.moved = true;
    app.go({ [drag.side]: app.range(drag.side, drag.unit, token.unit) }, { replace: drag.pushed });
    drag.pushed = true;
  }
  hoverText(token);
  const { lockedQ, lockedK } = app.frame, side = token && (record.cross ? token.side : app.state.dir === "at" ? "q" : "k");
  if (side === "k" && lockedQ.length === 1) tip(event, pairText(app.frame, lockedQ[0], token.unit));
  else if (side === "q" && lockedK.length === 1) tip(event, pairText(app.frame, token.unit, lockedK[0]));
  else tip(event, "");
});
text.addEventListener("pointerleave", (event) => { hoverText(null); tip(event, ""); });
text.addEventListener("pointerdown", (event) => {
  const token = textView.tokenAt(event.target);
  if (!token || event.button !== 0) return;
  event.preventDefault();
  textView.spans[token.side][token.unit].focus({ preventScroll: true });
  drag = { side: clickSide(token), unit: token.unit, last: token.unit, moved: false, pushed: false };
});
text.addEventListener("click", (event) => {
  const token = textView.tokenAt(event.target);
  if (token) clickText(token, event);
});
text.addEventListener("focusin", (event) => {
  if (!event.target.matches(":focus-visible")) return;
  hoverText(textView.tokenAt(event.target));
});
text.addEventListener("keydown", (event) => {
  const token = textView.tokenAt(event.target), step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!token) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    clickText(token, event);
  } else if (step && !event.altKey) {
    event.preventDefault();
    event.stopPropagation();
    const spans = textView.spans[token.side], across = step * (event.key.endsWith("Left") || event.key.endsWith("Right") ? textView.across(event.target) : 1);
    const unit = Math.max(0, Math.min(spans.length - 1, token.unit + across));
    spans[token.unit].tabIndex = -1;
    spans[unit].tabIndex = 0;
    spans[unit].focus();
    hoverText({ ...token, unit });
    app.draw(false);
    app.say();
  }
});

// --- Controls ---
function choice(id, key, change = (value) => app.go({ [key]: value })) {
  $(id).addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) change(button.dataset[key]);
  });
  $(id).addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], buttons = [...$(id).children];
    if (!step) return;
    event.stopPropagation();
    event.preventDefault();
    const next = buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length];
    next.focus();
    if (key !== "export") next.click();
  });
}
choice("stats", "stat", (stat) => app.go({ stat }, { replace: true }));
choice("views", "view");
choice("dirs", "dir", (dir) => app.go({ dir, q: dir === "at" ? [] : app.state.k, k: dir === "at" ? app.state.q : [] }));
choice("scales", "scale");
choice("exports", "export", (kind) => exportView(kind, app.current(), app.frame));
for (const id of ["merge", "hide", "value"]) {
  $(id).addEventListener("change", () => app.go({ [id]: $(id).checked }));
}
$("top").addEventListener("change", () => app.go({ top: Number($("top").value) }));
$("zoom").addEventListener("change", () => app.go({ zoom: Number($("zoom").value) }));
$("min").addEventListener("input", () => app.go({ min: Math.max(0, Math.min(1, Number($("min").value) || 0)) }, { replace: true }));
$("help").addEventListener("click", () => $("keys").showModal());

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("attn-theme", theme);
  } catch {
    // Private windows keep nothing; the choice lasts as long as the page.
  }
  repaint();
}
function repaint() {
  overview.recolour(app.state.stat);
  app.show();
}
$("theme").addEventListener("click", () => setTheme(currentTheme() === "dark" ? "light" : "dark"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

async function copyLink() {
  const link = location.href;
  try {
    await navigator.clipboard.writeText(link);
  } catch {
    const field = element("textarea", { value: link });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy link"; }, 1200);
}
$("copy").addEventListener("click", copyLink);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  if (event.key === "Escape") return app.unlock();
  if (event.target.matches("input[type=number], select")) return;
  const { state } = app, toggle = { m: "merge", h: "hide", v: "value" }[event.key];
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === "?") $("keys").showModal();
  else if (event.key === "t") $("theme").click();
  else if (event.key === "c") copyLink();
  else if (event.key === "o") app.go({ head: null });
  else if (event.key === "," || event.key === ".") goTab(state.tab + (event.key === "." ? 1 : -1));
  else if (event.key === "n") steps.go(1);
  else if (event.key === "p") steps.go(-1);
  else if (event.key === " " && steps.first > 0 && event.target === document.body) { event.preventDefault(); steps.play(); }
  else if (step && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    if (state.head) app.go({ head: overview.neighbour(state.head, ...step) }, { replace: true });
    else overview.cells.get(headName({ l: 0, h: 0 })).focus();
  } else if (!state.head) return;
  else if (event.key === "a") app.go({ head: { l: state.head.l, h: -1 } });
  else if (event.key === "l") app.go({ scale: state.scale === "log" ? "linear" : "log" });
  else if (toggle && !$(toggle).disabled) app.go({ [toggle]: !state[toggle] });
  else if (VIEWS[Number(event.key) - 1]) app.go({ view: VIEWS[Number(event.key) - 1] });
});

// --- Start ---
try {
  const saved = localStorage.getItem("attn-theme");
  if (saved === "dark" || saved === "light") document.documentElement.dataset.theme = saved;
} catch {
  // No storage: the system's theme.
}
$("title").textContent = page.title || "Attention";
$("follow-on").addEventListener("click", () => { app.go({ view: "text" }, { replace: true }); steps.play(true); });
$("step-back").addEventListener("click", () => steps.go(-1));
$("step-on").addEventListener("click", () => steps.go(1));
$("step-play").addEventListener("click", () => steps.play());
buildTabs();
const readAddress = () => app.set(readLink(location.hash));
addEventListener("popstate", readAddress);
addEventListener("hashchange", readAddress);
new ResizeObserver(() => { if (app.state.head && app.frame) app.draw(true); }).observe($("canvas"));
readAddress();
