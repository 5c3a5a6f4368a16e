// The heat map: rows look from, columns look at.

const heatView = {
  layout(frame, host) {
    const { q, k } = frame.view, { zoom } = app.state, ratio = devicePixelRatio || 1;
    const label = (side) => Math.min(120, labelWidth(side, 12)) + 34;
    const fit = (left, top) => {
      const room = Math.min((host.clientWidth - left - 14) / k.count, (host.clientHeight - top - 14) / q.count);
      return Math.max(1, Math.min(44 * ratio, Math.floor(room * ratio * 2) / 2)) / ratio;
    };
    this.labelled = (zoom > 1 ? zoom : fit(label(q), label(k))) >= 10;
    this.left = this.labelled ? label(q) : 64;
    this.top = this.labelled ? label(k) : 60;
    this.cell = zoom > 1 ? zoom : fit(this.left, this.top);
    // Labels of columns stand upright where all of them have room.
    this.upright = this.labelled && labelWidth(k, 12) <= this.cell - 4;
    if (this.upright) this.top = 46;
    if (this.upright && zoom <= 1) this.cell = fit(this.left, this.top);
    this.high = q.count * this.cell;
    this.wide = k.count * this.cell;
    this.width = this.left + this.wide + 14;
    this.height = this.top + this.high + 14;
    // A picture smaller than its window stands in the middle.
    this.shift = Math.max(0, Math.floor((host.clientWidth - this.width) / 2));
    return [Math.max(this.width, host.clientWidth), Math.max(this.height, host.clientHeight)];
  },

  hit({ x, y, left, top }) {
    const sx = this.shift ? x - this.shift : x, { q: queries, k: keys } = app.frame.view;
    const k = Math.floor((sx - this.left) / this.cell), q = Math.floor((y - this.top) / this.cell);
    const inQ = q >= 0 && q < queries.count && y - top >= this.top, inK = k >= 0 && k < keys.count && sx - left >= this.left;
    if (inQ && inK) return { q, k };
    if (inQ && x - left < this.left + this.shift) return { q };
    if (inK && y - top < this.top) return { k };
    return {};
  },

  most(frame) {
    let most = 0;
    if (frame.picture) for (const v of frame.picture.cells) if (v > most) most = v;
    return most;
  },

  // The picture at one pixel a cell.
  image(frame) {
    const { scale } = app.state, key = [frame.key, scale, currentTheme()].join("/");
    if (this.kept?.key === key && this.kept.picture === frame.picture) return this.kept;
    const { rows, columns, cells } = frame.picture, most = this.most(frame);
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d"), image = context.createImageData(columns, rows), data = image.data;
    const hidden = this.hiddenCells(frame), grey = hiddenRgb(), colours = ramp(currentTheme());
    for (let i = 0; i < cells.length; i++) {
      const colour = hidden && hidden[i] ? grey : rampRgb(position(cells[i], most, scale), colours);
      data[4 * i] = colour[0];
      data[4 * i + 1] = colour[1];
      data[4 * i + 2] = colour[2];
      data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return this.kept = { key, picture: frame.picture, canvas, most, masked: Boolean(hidden) };
  },

  // Pairs that the mask hides in every head of the view; null when it hides none.
  hiddenCells(frame) {
    const { view } = frame, { rows, columns, rowPool, columnPool } = frame.picture, { q: queries, k: keys } = view;
    const isFull = ([l, h]) => {
      const mask = record.meta.layers[l].mask, runs = record.meta.masks[Array.isArray(mask) ? mask[h] : mask];
      return runs.length === 1 && String(runs[0][1]) === `0,0,${record.keys},0,1`;
    };
    if (view.heads.some(isFull)) return null;
    const hidden = new Uint8Array(rows * columns).fill(1);
    const masks = new Map();  // number -> a head that has it
    for (const [l, h] of view.heads) {
      const mask = record.meta.layers[l].mask;
      masks.set(Array.isArray(mask) ? mask[h] : mask, [l, h]);
    }
    for (const [l, h] of masks.values()) {
      for (let q = 0; q < record.n; q++) {
        if (queries.of[q] < 0) continue;
        const spans = record.intervals(l, h, q), base = Math.floor(queries.of[q] / rowPool) * columns;
        for (let i = 0; i < spans.length; i += 3) {
          for (let k = spans[i]; k < spans[i + 1]; k += spans[i + 2]) {
            if (keys.of[k] >= 0) hidden[base + Math.floor(keys.of[k] / columnPool)] = 0;
          }
        }
      }
    }
    return hidden;
  },

  paint(painter, box, frame) {
    const muted = cssColour("muted"), panel = cssColour("panel"), query = cssColour("query"), key = cssColour("key");
    const sx = this.shift, x0 = sx + this.left, y0 = this.top, { cell, wide, high } = this;
    if (frame.picture) {
      const { rows, columns, rowPool, columnPool } = frame.picture, { canvas, most } = this.image(frame);
      const width = columns * columnPool * cell, height = rows * rowPool * cell;
      painter.image(canvas, x0, y0, width, height);
      if (width > wide) painter.rect(x0 + wide, y0, width - wide, height, panel);
      if (height > high) painter.rect(x0, y0 + high, width, height - high, panel);
      if (cell >= 32 && rows <= 40 && columns <= 40 && isWholePicture(frame.picture)) this.numbers(painter, frame, most, x0, y0);
    } else if (frame.waiting) {
      painter.text(box.x + box.width / 2, box.y + box.height / 2, "computing all rows…", { size: 13, fill: muted, align: "center" });
    } else {
      painter.text(box.x + box.width / 2, box.y + box.height / 2, "too much to compute here: show tokens, choose one head, or hover a row", { size: 13, fill: muted, align: "center" });
    }
    const chosen = [...frame.q.map((u) => [u, "q"]), ...frame.k.map((u) => [u, "k"])];
    for (const [u, side] of chosen) {
      const thick = Math.max(cell, 2), at = u * cell;
      if (side === "q") painter.frame(x0 - 0.5, y0 + at - 0.5, wide + 1, thick + 1, query, 1.5);
      else painter.frame(x0 + at - 0.5, y0 - 0.5, thick + 1, high + 1, key, 1.5);
    }
    // The margins stay where they are while the picture scrolls under them.
    painter.rect(box.x, box.y, box.width, this.top - 1, panel);
    painter.rect(box.x, box.y, this.left + sx - 1, box.height, panel);
    painter.frame(x0 - 0.5, y0 - 0.5, wide + 1, high + 1, cssColour("rule"));
    this.labels(painter, box, frame, "q", x0, y0, query);
    this.labels(painter, box, frame, "k", x0, y0, key);
    painter.rect(box.x, box.y, this.left + sx - 9, this.top - 9, panel);
    const middleX = Math.min(x0 + wide / 2, box.x + x0 + (box.width - x0) / 2);
    const middleY = Math.min(y0 + high / 2, box.y + y0 + (box.height - y0) / 2);
    painter.text(Math.max(middleX, x0 + 40), box.y + 11, "looks at (key)", { size: 11, fill: key, align: "center", weight: 600 });
    painter.text(box.x + sx + 11, Math.max(middleY, y0 + 50), "looks from (query)", { size: 11, fill: query, align: "center", turn: -90, weight: 600 });
  },

  numbers(painter, frame, most, x0, y0) {
    const { cells, columns } = frame.picture;
    for (let i = 0; i < cells.length; i++) {
      const t = position(cells[i], most, app.state.scale);
      if (!(cells[i] >= 0.005)) continue;
      const text = cells[i] >= 0.995 ? cells[i].toFixed(1) : cells[i].toFixed(2).replace(/^0/, "");
      painter.text(x0 + ((i % columns) + 0.5) * this.cell, y0 + (Math.floor(i / columns) + 0.5) * this.cell, text,
                   { size: 11, fill: inkOn(t), align: "center" });
    }
  },

  labels(painter, box, frame, side, x0, y0, colour) {
    const rows = side === "q", cell = this.cell, chosen = rows ? frame.q : frame.k, of = frame.view[side];
    const offset = rows ? Math.max(0, box.y) : Math.max(0, box.x);
    const first = Math.max(0, Math.floor(offset / cell));
    const last = Math.min(of.count - 1, Math.ceil((offset + (rows ? box.height : box.width)) / cell));
    const put = (u, text, options) => {
      const at = (u + 0.5) * cell;
      if (rows) painter.text(box.x + this.shift + this.left - 7, y0 + at, text, { align: "right", ...options });
      else if (this.upright) painter.text(x0 + at, box.y + this.top - 13, text, { align: "center", ...options });
      else painter.text(x0 + at, box.y + this.top - 7, text, { turn: -90, ...options });
    };
    for (let u = first; u <= last; u++) {
      if (!of.tokens.generated[of.units[u][0]]) continue;
      if (rows) painter.rect(x0 - 4, y0 + u * cell, 2, cell, cssColour("generated"));
      else painter.rect(x0 + u * cell, y0 - 4, cell, 2, cssColour("generated"));
    }
    if (this.labelled) {
      for (let u = first; u <= last; u++) {
        const on = chosen.includes(u), special = isSpecial(of, u);
        put(u, shortText(of, u), { size: Math.min(12, cell * 0.86), weight: on ? 600 : 400,
                                                fill: on ? colour : cssColour(special ? "muted" : "text") });
      }
      return;
    }
    const every = [10, 20, 50, 100, 200, 500, 1000].find((step) => step * cell >= 36) || 2000;
    for (let u = Math.ceil(first / every) * every; u <= last; u += every) {
      const at = (u + 0.5) * cell;
      if (rows) painter.text(box.x + this.shift + this.left - 7, y0 + at, String(u), { size: 10, fill: cssColour("muted"), align: "right" });
      else painter.text(x0 + at, box.y + this.top - 9, String(u), { size: 10, fill: cssColour("muted"), align: "center" });
    }
    if (!chosen.length || chosen.length > 3) return;
    for (const u of chosen) {
      const text = shortText(of, u, 14), at = (u + 0.5) * cell;
      measuring.font = `600 12px ${FONT}`;
      const width = measuring.measureText(text).width + 10, soft = cssColour(rows ? "query-soft" : "key-soft");
      const x = rows ? Math.max(box.x + 2, box.x + this.shift + this.left - 5 - width) : Math.max(box.x + x0, Math.min(x0 + at - width / 2, box.x + box.width - width));
      const y = rows ? y0 + at : box.y + this.top - 26;
      painter.rect(x, y - 9, width, 18, soft, 3);
      painter.text(x + 5, y, text, { size: 12, fill: colour, weight: 600 });
    }
  },

  size() { return [this.shift * 2 + this.width, this.height]; },
  legend(frame) { return this.most(frame); },
  reveal(hit) {
    const out = { margin: Math.max(this.left, this.top) + 30 };
    if (hit.q !== undefined && hit.q !== null) out.y = this.top + (hit.q + 0.5) * this.cell;
    if (hit.k !== undefined && hit.k !== null) out.x = this.shift + this.left + (hit.k + 0.5) * this.cell;
    return out;
  },
};

// A cell for every pair.
function isWholePicture({ rowPool, columnPool }) { return rowPool === 1 && columnPool === 1; }

function hiddenRgb() {
  const hex = cssColour("rule");
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}
