// The text view: the text as it reads, tinted by what the chosen token looks at, or by who looks at it.

const textView = {
  host: document.getElementById("text"),
  spans: {},  // of queries and keys: the same ones, but in cross-attention

  build(view) {
    this.host.replaceChildren();
    this.view = view;
    this.shown = new Map();  // span -> {tint, mark, theme}
    this.page = document.createElement("div");
    this.page.className = "page" + (record.tokens.verbatim ? " verbatim" : "");
    if (record.cross) {
      this.spans = { k: this.addText(view.k, "k", "looks at (key)"), q: this.addText(view.q, "q", "looks from (query)") };
    } else {
      const spans = this.addText(view.q, "q", "");
      this.spans = { q: spans, k: spans };
    }
    this.host.append(this.page);
  },

  // One text, named where there are two; returns its tokens' elements.
  addText(view, side, name) {
    const { tokens, units, of } = view, spans = [], text = element("div", { className: "of-" + side });
    if (name) text.append(element("h3", { textContent: name }));
    let block = null, segment = null;
    units.forEach((unit, u) => {
      const t = unit[0];
      if (segment !== tokens.segment[t] || !block) {
        segment = tokens.segment[t];
        block = element("div", { className: "segment", dir: "auto" });
        text.append(block);
      }
      const joined = continues(tokens, t) && of[t - 1] >= 0, special = isSpecial(view, u);
      if (!joined && block.lastChild && !tokens.verbatim) block.append(" ");
      const span = element("span", { tabIndex: u === 0 ? 0 : -1, role: "button",
        className: "token" + (joined ? " joined" : "") + (special ? " special" : "") + (tokens.generated[t] ? " generated" : ""),
        textContent: tokens.verbatim ? verbatimText(view, u) : unit.map((x) => plainText(tokens, x)).join("") });
      if (special) span.dir = "ltr";  // says nothing of the text's own direction
      span.dataset.unit = u;
      span.dataset.side = side;
      block.append(span);
      if (tokens.verbatim) block.append("\n".repeat(tokens.text[unit[unit.length - 1]].split("\n").length - 1));
      spans.push(span);
    });
    this.page.append(text);
    return spans;
  },

  tokenAt(target) {
    const span = target.closest?.(".token");
    return span ? { side: span.dataset.side, unit: Number(span.dataset.unit) } : null;
  },
  span({ q, k }) { return this.spans.q[q] || this.spans.k[k]; },
  // Where the next token is: to the right, or to the left.
  across(span) { return getComputedStyle(span.parentElement).direction === "rtl" ? -1 : 1; },

  // The weights that tint a text now. With no token chosen, keys show what all queries look at, in the
  // mean.
  weights(frame, side) {
    if (record.cross ? side === "q" : app.state.dir === "at") return frame.row && record.cross ? null : frame.column;
    if (frame.row) return frame.row;
    if (record.cross && frame.column) return null;
    if (!frame.picture || !isWholePicture(frame.picture)) return null;
    const { cells, rows, columns } = frame.picture, mean = new Float64Array(columns);
    for (let i = 0; i < cells.length; i++) mean[i % columns] += cells[i] / rows;
    return mean;
  },
  sides() { return record.cross ? ["k", "q"] : ["q"]; },

  most(frame) {
    let most = 0;
    for (const side of this.sides()) for (const v of this.weights(frame, side) || []) if (v > most) most = v;
    return most;
  },
  legend(frame) { return this.most(frame); },

  update(frame) {
    if (this.view !== frame.view) this.build(frame.view);
    const most = this.most(frame), theme = currentTheme();
    for (const side of this.sides()) {
      const weights = this.weights(frame, side), mark = this.marks(frame, side);
      for (const [u, span] of this.spans[side].entries()) {
        const t = weights ? position(weights[u], most, app.state.scale) : 0;
        const now = { tint: Math.round(t * 255), mark: mark(u), theme }, before = this.shown.get(span);
        if (before?.tint !== now.tint || before.theme !== theme) {
          span.style.cssText = now.tint ? `background:${rampColour(t)};color:${inkOn(t)}` : "";
        }
        if ((before?.mark ?? "") !== now.mark) {
          if (before?.mark) span.classList.remove(before.mark);
          if (now.mark) span.classList.add(now.mark);
        }
        this.shown.set(span, now);
      }
    }
  },

  // What stands out of a text: a chosen token, the other end of a pair, and the step of a generation.
  marks(frame, side) {
    const asKey = record.cross ? side === "k" : app.state.dir === "at", chosen = steps.chosen();
    const here = asKey ? frame.k : frame.q, other = record.cross ? [] : asKey ? frame.q : frame.k;
    const locked = asKey ? frame.lockedK : frame.lockedQ, written = side === "q" && chosen !== null;
    this.page.classList.toggle("at", !record.cross && asKey);
    return (u) => here.includes(u) ? (locked.length ? "locked" : "here") : other.includes(u) ? "other" :
      !written ? "" : this.view.q.of[chosen] === u ? "chosen" : this.view.q.units[u][0] > chosen ? "later" : "";
  },

  // For exports: the same words where the browser put them.
  size() {
    const page = this.host.firstChild, box = page.getBoundingClientRect();
    return [Math.ceil(box.width) + 32, Math.ceil(box.height) + 32];
  },
  paint(painter, box, frame) {
    const origin = this.page.getBoundingClientRect(), most = this.most(frame);
    const at = (part) => [part.left - origin.left + 16, part.top - origin.top + 16];
    const write = (e, fill) => {
      const size = parseFloat(getComputedStyle(e).fontSize), box = e.getClientRects()[0];
      if (!box) return;
      const [x, y] = at(box);
      painter.text(x + (e.tagName === "H3" ? 0 : 3), y + box.height / 2, directed(e.textContent), { size, fill });
    };
    for (const e of this.page.querySelectorAll("h3")) write(e, cssColour("muted"));
    for (const side of this.sides()) {
      const weights = this.weights(frame, side);
      this.spans[side].forEach((span, u) => {
        const t = weights ? position(weights[u], most, app.state.scale) : 0;
        const both = !record.cross;
        const chosen = (both || side === "q") && frame.q.includes(u) ? "query" : (both || side === "k") && frame.k.includes(u) ? "key" : null;
        for (const part of span.getClientRects()) {
          const [x, y] = at(part);
          if (t > 0.004) painter.rect(x, y, part.width, part.height, rampColour(t), 3);
          if (chosen) painter.frame(x, y, part.width, part.height, cssColour(chosen), 2);
        }
        write(span, t > 0.004 ? inkOn(t) : cssColour("text"));
      });
    }
  },
};
