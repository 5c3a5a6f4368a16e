// The line view: queries left, keys right, a line a pair.

const LINES_MOST = 4000;  // lines drawn when nothing is chosen: the strongest

const linesView = {
  HEADER: 26,
  SIDE: 56,  // room for a number beside the labels

  layout(frame, host) {
    const { q, k } = frame.view, count = Math.max(q.count, k.count), tall = host.clientHeight - this.HEADER - 8;
    const whole = Math.max(1, Math.min(24, Math.floor((tall / count) * 2) / 2));
    const row = app.state.zoom === 1 ? whole : app.state.zoom || (whole >= 15 ? whole : 18);
    const labelled = row >= 8;
    const size = Math.min(13, row * 0.8);
    const narrow = host.clientWidth < 420, side = narrow ? 42 : this.SIDE;  // a phone
    const longest = Math.max(labelWidth(q, size), labelWidth(k, size), narrow ? 0 : 50);  // room for the sides' names
    const label = labelled ? Math.min(narrow ? 76 : 150, longest) + 14 : 120;
    const middle = Math.max(narrow ? 40 : 90, Math.min(460, host.clientWidth - 2 * (label + side) - 24));
    const left = Math.max(narrow ? 0 : 8, (host.clientWidth - middle - 2 * (label + side)) / 2) + side;
    Object.assign(this, { narrow, letters: narrow ? 10 : 22, row, labelled, font: size, label, from: left + label, to: left + label + middle, count });
    this.width = Math.max(host.clientWidth, left + 2 * label + middle + side);
    this.height = Math.max(tall + this.HEADER, this.HEADER + count * row + 8);
    return [this.width, this.height];
  },

  y(unit) { return this.HEADER + (unit + 0.5) * this.row; },

  hit({ x, y, top }) {
    const unit = Math.floor((y - this.HEADER) / this.row), { q, k } = app.frame.view;
    if (y - top < this.HEADER || unit < 0) return {};
    if (unit < q.count && x < this.from + 20 && x > this.from - this.label - this.SIDE) return { q: unit };
    if (unit < k.count && x > this.to - 20 && x < this.to + this.label + this.SIDE) return { k: unit };
    return {};
  },

  // [query, key, weight], the strongest last, after top-k and threshold.
  lines(frame) {
    const { top, min } = app.state, out = [];
    const add = (pairs, most) => {
      let kept = pairs.filter(([, , w]) => w > 0 && w >= min);
      if (most && kept.length > most) kept = kept.sort((a, b) => b[2] - a[2]).slice(0, most);
      out.push(...kept);
    };
    if (frame.row) {
      for (const q of frame.q) add(Array.from(frame.row, (w, k) => [q, k, w]), top);
    } else if (frame.column) {
      for (const k of frame.k) add(Array.from(frame.column, (w, q) => [q, k, w]), top);
    } else if (frame.picture && isWholePicture(frame.picture)) {
      const key = frame.key + "/" + top + "/" + min;
      if (this.kept?.key !== key || this.kept.picture !== frame.picture) {
        const { cells, rows, columns } = frame.picture, many = Math.max(rows, columns) > 64, most = top || (many ? 8 : 0);
        for (let q = 0; q < rows; q++) {
          add(Array.from(cells.subarray(q * columns, (q + 1) * columns), (w, k) => [q, k, w]), most);
        }
        out.sort((a, b) => a[2] - b[2]);
        this.kept = { key, picture: frame.picture, lines: out.slice(-LINES_MOST) };
      }
      return this.kept.lines;
    }
    return out.sort((a, b) => a[2] - b[2]);
  },

  most(frame) {
    const values = frame.row || frame.column || (frame.picture ? frame.picture.cells : []);
    let most = 0;
    for (const v of values) if (v > most) most = v;
    return most;
  },

  paint(painter, box, frame) {
    const { scale } = app.state, most = this.most(frame), text = cssColour("text"), muted = cssColour("muted");
    const panel = cssColour("panel"), query = cssColour("query"), key = cssColour("key");
    const first = Math.max(0, Math.floor((box.y - this.HEADER) / this.row));
    const last = Math.min(this.count - 1, Math.ceil((box.y + box.height - this.HEADER) / this.row));
    const pair = frame.pair;
    for (const [q, k, w] of this.lines(frame)) {
      if ((q < first && k < first) || (q > last && k > last)) continue;
      const t = position(w, most, scale);
      if (t < (frame.row || frame.column ? 0.012 : 0.04)) continue;
      // The colour says how much; faint lines are thin as well, so that they hide little.
      painter.curve(this.from + 4, this.y(q), this.to - 4, this.y(k), rampColour(0.18 + 0.82 * t), 0.6 + 2.4 * t, 0.25 + 0.75 * t);
    }
    if (pair) {
      painter.curve(this.from + 4, this.y(pair.q), this.to - 4, this.y(pair.k), key, 2.5, 1);
    }
    for (let u = first; u <= last; u++) {
      const y = this.y(u);
      if (u < frame.view.q.count) this.token(painter, frame, u, y, "q", query, cssColour("query-soft"), text, most);
      if (u < frame.view.k.count) this.token(painter, frame, u, y, "k", key, cssColour("key-soft"), text, most);
    }
    if (this.count * this.row > box.height) this.strip(painter, box, frame, most);
    painter.rect(box.x, box.y, box.width, this.HEADER - 2, panel);
    painter.text(this.from - 6, box.y + 12, this.narrow ? "query" : "looks from (query)", { size: 11, fill: query, align: "right", weight: 600 });
    painter.text(this.to + 6, box.y + 12, this.narrow ? "key" : "looks at (key)", { size: 11, fill: key, weight: 600 });
    if (frame.picture && !isWholePicture(frame.picture)) {
      painter.text((this.from + this.to) / 2, box.y + 40, "too many tokens for all lines: hover one", { size: 12, fill: muted, align: "center" });
    }
    if (frame.waiting) painter.text((this.from + this.to) / 2, box.y + 40, "computing…", { size: 12, fill: muted, align: "center" });
  },

  token(painter, frame, unit, y, side, strong, soft, text, most) {
    const left = side === "q", of = frame.view[side], chosen = (left ? frame.q : frame.k).includes(unit);
    const weights = left ? (frame.row ? null : frame.column) : frame.row;
    const x = left ? this.from - this.label : this.to, height = Math.max(1, Math.min(this.row - 1, 20));
    let ink = isSpecial(of, unit) ? cssColour("muted") : text;
    if (weights) {
      const t = position(weights[unit], most, app.state.scale);
      if (t > 0.004) {
        painter.rect(x, y - height / 2, this.label, height, rampColour(t), Math.min(3, height / 3));
        ink = inkOn(t);
      }
      if (this.row >= 9 && (t > 0.08 || weights[unit] >= 0.01)) {
        const at = left ? x - 6 : x + this.label + 6;
        painter.text(at, y, number(weights[unit]), { size: Math.min(11, this.font), fill: cssColour("muted"), align: left ? "right" : "left" });
      }
    }
    if (chosen) {
      painter.rect(x, y - height / 2, this.label, height, soft, Math.min(3, height / 3));
      ink = strong;
    }
    if (of.tokens.generated[of.units[unit][0]]) {
      painter.rect(left ? this.from - 3 : this.to + 1, y - height / 2, 2, height, cssColour("generated"));
    }
    if (this.labelled) {
      painter.text(left ? this.from - 7 : this.to + 7, y, shortText(of, unit, this.letters),
                   { size: this.font, fill: ink, align: left ? "right" : "left", weight: chosen ? 600 : 400 });
    } else if (chosen && (left ? frame.q : frame.k).length < 4) {
      painter.rect(x, y - 9, this.label, 18, soft, 3);
      painter.text(left ? this.from - 7 : this.to + 7, y, shortText(of, unit), { size: 12, fill: strong, align: left ? "right" : "left", weight: 600 });
    }
  },

  // All tokens at once at the right edge, like the map of an editor: where the lines go that leave
  // the window.
  strip(painter, box, frame, most) {
    const weights = frame.row || frame.column, x = box.x + box.width - 14;
    const step = (box.height - this.HEADER - 8) / this.count, top = box.y + this.HEADER;
    painter.rect(x - 4, box.y, 18, box.height, cssColour("panel"));
    painter.rect(x, top, 10, step * this.count, cssColour("hover"));
    if (weights) {
      for (let u = 0; u < weights.length; u++) {
        const t = position(weights[u], most, app.state.scale);
        if (t > 0.02) painter.rect(x, top + u * step, 10, Math.max(1.5, step), rampColour(t));
      }
    }
    const seen = (box.y - 0) / this.row;
    painter.frame(x - 1.5, top + seen * step, 13, Math.max(4, (box.height / this.row) * step), cssColour("muted"));
    for (const [list, colour] of [[frame.q, "query"], [frame.k, "key"]]) {
      for (const u of list) painter.rect(x - 4, top + u * step - 1, 4, Math.max(2, step), cssColour(colour));
    }
  },

  // The whole content for an export.
  size() { return [this.width, this.HEADER + this.count * this.row + 10]; },
  legend(frame) { return this.most(frame); },
  reveal(hit) {
    const unit = hit.q ?? hit.k;
    return unit === undefined || unit === null ? null : { y: this.y(unit), margin: this.HEADER + 30 };
  },
};

const measuring = document.createElement("canvas").getContext("2d");
function labelWidth(side, size) {
  measuring.font = `600 ${size}px ${FONT}`;
  let most = 0;
  for (let u = 0; u < side.count; u++) most = Math.max(most, measuring.measureText(shortText(side, u, 22)).width);
  return most;
}
