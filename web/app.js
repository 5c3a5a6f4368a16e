// Puts the parts together: the state, what is hovered, and who redraws when.

const $ = (id) => document.getElementById(id);

const HINTS = {
  lines: "Hover a token for a preview, click to lock it; shift, ctrl or drag for several.",
  heat: "Hover a cell for its value, click to lock the pair; click a label to lock its row or column.",
  text: "Hover a token and all others take the tint; click to lock it, then hover another for the pair.",
  texts: "Hover a token of one text and the other text takes the tint; click to lock it, then hover for the pair.",
};

const app = {
  state: { ...DEFAULTS },
  hover: { q: null, k: null },
  views: new Map(),

  viewOptions() { return { merge: this.state.merge, hide: this.state.hide, value: this.state.value }; },

  // --- State ---

  go(changes, { replace = false } = {}) {
    const next = { ...this.state, ...changes };
    const link = writeLink(next);
    if (link !== (location.hash || "#")) {
      try {
        history[replace ? "replaceState" : "pushState"](null, "", link);
      } catch {
        location.hash = link;
      }
    }
    this.set(next);
  },

  set(state) {
    const before = this.state, opens = before.tab !== state.tab || !background;
    this.state = state;
    if (opens) openTab(state.tab);
    const heads = [before.head, state.head].map((head) => head && headName(head));
    if (opens || (heads[0] && heads[1] && heads[0] !== heads[1])) this.hover = { q: null, k: null };
    this.show();
  },

  // What a click on a token does: alone, a range with shift, one more or less with ctrl.
  lock(side, unit, { shift = false, toggle = false }) {
    const { units } = this.frame.view[side], now = side === "q" ? this.frame.lockedQ : this.frame.lockedK;
    const current = now.map((u) => units[u][0]), token = units[unit][0];
    let next;
    if (toggle) next = current.includes(token) ? current.filter((t) => t !== token) : [...current, token];
    else if (shift && this.anchor?.side === side && now.length) next = this.range(side, this.anchor.unit, unit);
    else next = current.length === 1 && current[0] === token ? [] : [token];
    if (!shift) this.anchor = { side, unit };
    this.go({ [side]: next });
  },
  range(side, a, b) {
    const { units } = this.frame.view[side], out = [];
    for (let u = Math.min(a, b); u <= Math.max(a, b); u++) out.push(units[u][0]);
    return out;
  },
  unlock() {
    if (this.state.q.length || this.state.k.length) this.go({ q: [], k: [] });
    else if (this.state.head) this.go({ head: null });
  },

  setHover(q, k) {
    q ??= null;
    k ??= null;
    if (this.hover.q === q && this.hover.k === k) return;
    this.hover = { q, k };
    this.request();
  },

  // --- What is to be seen ---

  makeFrame() {
    const { state, hover } = this, options = this.viewOptions();
    const key = [state.tab, headName(state.head), options.merge, options.hide, options.value].join("/");
    if (!this.views.has(key)) {
      this.views.set(key, new AttnMaths.View(record, headList(state.head, record), options));
      if (this.views.size > 8) this.views.delete(this.views.keys().next().value);
    }
    const view = this.views.get(key);
    const unitsOf = (side, list) => [...new Set(list.map((t) => side.of[t]).filter((u) => u >= 0))];
    const lockedQ = unitsOf(view.q, state.q), lockedK = unitsOf(view.k, state.k);
    const inside = (side, u) => u !== null && u < side.count;
    const q = lockedQ.length ? lockedQ : inside(view.q, hover.q) ? [hover.q] : [];
    const k = lockedK.length ? lockedK : inside(view.k, hover.k) ? [hover.k] : [];
    const frame = { key, view, lockedQ, lockedK, q, k, row: null, column: null, picture: null, waiting: false };
    if (q.length && view.hasRow(q)) frame.row = view.row(q);
    // The row sums of one head are found at once; those of many come from the background.
    if (k.length && !view.hasRows()) frame.column = null;
    else if (k.length && (background.isQuick(view) || view.columnReady())) frame.column = view.column(k);
    else if (k.length) frame.waiting = true;
    frame.pair = q.length === 1 && k.length === 1 && frame.row ? { q: q[0], k: k[0] } : null;
    const needed = state.view === "heat" || (!frame.row && !frame.column && !(state.view === "text" && state.dir === "at"));
    if (needed) {
      frame.picture = background.picture(view, key, () => this.show());
      frame.waiting ||= !frame.picture && background.computes(view);
    }
    return frame;
  },

  current() { return { lines: linesView, heat: heatView, text: textView }[this.state.view]; },

  // A new state: everything is laid out again.
  show() {
    const { state } = this, inside = Boolean(state.head);
    $("overview").hidden = inside;
    $("head").hidden = !inside;
    overview.home(inside ? $("head") : $("overview"));
    overview.mark(state.head);
    overview.colour(state.stat);
    press("stats", "stat", state.stat);
    const { name } = tabs[state.tab];
    document.title = (name && name + " · ") + (inside ? headTitle(state.head) + " · " : "") + (page.title || "attn");
    if (!inside) return;
    $("head-title").textContent = headTitle(state.head);
    press("views", "view", state.view);
    press("dirs", "dir", state.dir);
    press("scales", "scale", state.scale);
    for (const id of ["merge", "hide", "value"]) $(id).checked = state[id];
    $("top").value = String(state.top);
    if (document.activeElement !== $("min")) $("min").value = state.min || "";
    $("zoom").value = String(state.zoom);
    for (const e of document.querySelectorAll(".only-lines")) e.hidden = state.view !== "lines";
    for (const e of document.querySelectorAll(".only-text")) e.hidden = state.view !== "text";
    for (const e of document.querySelectorAll(".not-text")) e.hidden = state.view === "text";
    $("dirs").hidden ||= record.cross;
    $("canvas").hidden = state.view === "text";
    $("text").hidden = state.view !== "text";
    detail.statistics(state.head);
    steps.update();
    this.describe();
    this.draw(true);
    // What a link or a list has locked is brought into sight.
    const { lockedQ, lockedK } = this.frame, locked = state.q + "/" + state.k + "/" + state.view;
    if (locked !== this.revealed && lockedQ.length + lockedK.length) {
      reveal({ q: lockedQ[lockedQ.length - 1], k: lockedK[lockedK.length - 1] }, true);
    }
    this.revealed = locked;
  },

  describe() {
    $("canvas").setAttribute("aria-label", (this.state.view === "heat"
      ? "Heat map: rows look from, columns look at. Arrow keys move, Enter locks."
      : "Line view: queries left, keys right. Up and down choose a token, left and right the side, Enter locks."));
  },

  request() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; if (this.state.head) this.draw(false); });
  },

  draw(layout) {
    const frame = this.frame = this.makeFrame(), view = this.current();
    if (view === textView) {
      textView.update(frame);
    } else {
      if (layout || this.laidOut !== view) viewport.resize(...view.layout(frame, $("canvas")));
      this.laidOut = view;
      viewport.paint();
    }
    if (layout) this.chips(frame);
    detail.update(frame);
    const what = (this.state.value ? "‖αf(x)‖" : "attention α") + (this.state.hide ? ", renormalised" : "") +
      (view === heatView && frame.picture && heatView.kept?.masked ? ", grey: hidden by the mask" : "");
    drawLegend($("legend"), view.legend(frame), this.state.scale, what);
  },

  chips(frame) {
    const chips = [], { view } = frame, { state } = this;
    const chip = (kind, title, units, side) => {
      const names = units.slice(0, 4).map((u) => shortText(view[side], u)).join(", ") + (units.length > 4 ? ` + ${units.length - 4}` : "");
      const close = element("button", { textContent: "✕", title: "Unlock (Esc)", "aria-label": "Unlock " + title });
      close.addEventListener("click", () => this.go({ [side]: [] }));
      chips.push(element("span", { className: "chip " + kind }, title + " ", element("b", { textContent: names }),
        units.length > 1 ? `, mean of ${units.length}` : ` #${view[side].units[units[0]][0]}`, close));
    };
    if (frame.lockedQ.length) chip("query", "Query", frame.lockedQ, "q");
    if (frame.lockedK.length) chip("key", "Key", frame.lockedK, "k");
    if (!chips.length) chips.push(element("span", { className: "chip", textContent: "nothing locked" }), element("span", { className: "muted small", textContent: HINTS[record.cross && state.view === "text" ? "texts" : state.view] }));
    if (!view.hasRows()) chips.push(element("span", { className: "chip warn", textContent: `a picture, and rows of ${keptUnits(view).length} tokens` }));
    if (state.hide) chips.push(element("span", { className: "chip warn", textContent: "special tokens hidden, the rest renormalised" }));
    if (state.merge) chips.push(element("span", { className: "chip", textContent: "words: keys summed, queries averaged" }));
    if (state.value) chips.push(element("span", { className: "chip", textContent: "weighted by what each value brings" }));
    $("chips").replaceChildren(...chips);
  },

  say() {
    const { frame } = this, { view } = frame;
    if (frame.pair) {
      $("spoken").textContent = `${unitText(view.q, frame.pair.q)} looks at ${unitText(view.k, frame.pair.k)}: ${number(frame.row[frame.pair.k])}`;
    } else if (frame.row && frame.q.length === 1) {
      const best = frame.row.indexOf(Math.max(...frame.row));
      $("spoken").textContent = `${unitText(view.q, frame.q[0])} looks most at ${unitText(view.k, best)}: ${number(frame.row[best])}`;
    } else if (frame.column && frame.k.length === 1) {
      const best = frame.column.indexOf(Math.max(...frame.column));
      $("spoken").textContent = `${unitText(view.k, frame.k[0])} is looked at most by ${unitText(view.q, best)}: ${number(frame.column[best])}`;
    }
  },
};

// The units whose rows can be had.
function keptUnits(view) {
  return Array.from(view.q.units.keys()).filter((u) => view.hasRow([u]));
}

// One of several buttons is pressed.
function press(id, key, value) {
  for (const button of $(id).children) {
    const on = button.dataset[key] === value;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(on));
    button.tabIndex = on ? 0 : -1;
  }
}

const viewport = new Viewport($("canvas"), (painter, box) => {
  if (app.frame && app.state.head && app.state.view !== "text") app.current().paint(painter, box, app.frame);
});
