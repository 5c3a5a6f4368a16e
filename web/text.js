// The text view: the text as it reads, tinted by what the chosen token looks at, or by who looks at it.

const textView = {
  host: document.getElementById("text"),
  spans: [],

  build(view) {
    this.host.replaceChildren();
    this.spans = [];
    this.view = view;
    const page = document.createElement("div");
    page.className = tokens.verbatim ? "page verbatim" : "page";
    let block = null, segment = null;
    view.units.forEach((unit, u) => {
      const t = unit[0];
      if (segment !== tokens.segment[t] || !block) {
        segment = tokens.segment[t];
        block = document.createElement("div");
        block.className = "segment";
        page.append(block);
      }
      const span = document.createElement("span");
      const joined = continues(t) && view.of[t - 1] >= 0;
      if (!joined && block.lastChild && !tokens.verbatim) block.append(" ");
      span.className = "token" + (joined ? " joined" : "") + (view.special(u) ? " special" : "") +
        (tokens.generated[t] ? " generated" : "");
      span.textContent = tokens.verbatim ? verbatimText(unit) : unit.map(plainText).join("");
      span.dataset.unit = u;
      span.tabIndex = u === 0 ? 0 : -1;
      span.setAttribute("role", "button");
      block.append(span);
      if (tokens.verbatim) block.append("\n".repeat(tokens.text[unit[unit.length - 1]].split("\n").length - 1));
      this.spans.push(span);
    });
    this.host.append(page);
    this.shown = [];
  },

  unitAt(target) {
    const span = target.closest?.(".token");
    return span ? Number(span.dataset.unit) : null;
  },

  // The weights that tint the text now. With no token chosen: what all tokens look at, in the mean.
  weights(frame) {
    if (app.state.dir === "at") return frame.column;
    if (frame.row) return frame.row;
    if (!frame.picture || frame.picture.pool !== 1) return null;
    const { cells, side } = frame.picture, mean = new Float64Array(side);
    for (let i = 0; i < cells.length; i++) mean[i % side] += cells[i] / side;
    return mean;
  },

  most(frame) {
    let most = 0;
    for (const v of this.weights(frame) || []) if (v > most) most = v;
    return most;
  },
  legend(frame) { return this.most(frame); },

  update(frame) {
    if (this.view !== frame.view) this.build(frame.view);
    const weights = this.weights(frame), most = this.most(frame), at = app.state.dir === "at";
    const here = at ? frame.k : frame.q, other = at ? frame.q : frame.k;
    const locked = at ? frame.lockedK : frame.lockedQ;
    this.host.classList.toggle("at", at);
    const theme = currentTheme(), chosen = steps.chosen();
    for (let u = 0; u < this.spans.length; u++) {
      const t = weights ? position(weights[u], most, app.state.scale) : 0;
      const mark = here.includes(u) ? (locked.length ? "locked" : "here") : other.includes(u) ? "other" :
        chosen === null ? "" : this.view.of[chosen] === u ? "chosen" : this.view.units[u][0] > chosen ? "later" : "";
      const tint = Math.round(t * 255), before = this.shown[u], span = this.spans[u];
      if (before?.tint !== tint || before.theme !== theme) {
        span.style.cssText = tint ? `background:${rampColour(t)};color:${inkOn(t)}` : "";
      }
      if ((before?.mark ?? "") !== mark) {
        if (before?.mark) span.classList.remove(before.mark);
        if (mark) span.classList.add(mark);
      }
      this.shown[u] = { tint, mark, theme };
    }
  },

  // For exports: the same words where the browser put them.
  size() {
    const page = this.host.firstChild, box = page.getBoundingClientRect();
    return [Math.ceil(box.width) + 32, Math.ceil(box.height) + 32];
  },
  paint(painter, box, frame) {
    const origin = this.host.firstChild.getBoundingClientRect(), weights = this.weights(frame), most = this.most(frame);
    this.spans.forEach((span, u) => {
      const t = weights ? position(weights[u], most, app.state.scale) : 0;
      const chosen = frame.q.includes(u) ? "query" : frame.k.includes(u) ? "key" : null;
      const size = parseFloat(getComputedStyle(span).fontSize);
      for (const part of span.getClientRects()) {
        const x = part.left - origin.left + 16, y = part.top - origin.top + 16;
        if (t > 0.004) painter.rect(x, y, part.width, part.height, rampColour(t), 3);
        if (chosen) painter.frame(x, y, part.width, part.height, cssColour(chosen), 2);
      }
      const first = span.getClientRects()[0];
      if (first) {
        painter.text(first.left - origin.left + 19, first.top - origin.top + 16 + first.height / 2, span.textContent,
                     { size, fill: t > 0.004 ? inkOn(t) : cssColour("text") });
      }
    });
  },
};
