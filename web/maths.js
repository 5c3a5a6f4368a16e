// Decodes the record and computes attention rows. This file also runs inside the worker, so it
// touches no document. Everything is computed in double precision from the float16 queries and keys.
const AttnMaths = (() => {
  "use strict";

  // --- Unpacking ---------------------------------------------------------------------------------

  // Four bytes are five characters: a big-endian base-85 number, most significant digit first.
  // None of the characters means anything to HTML.
  const ALPHABET =
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%()*+-;=?@^_`{|}~,.:";
  const DIGIT = new Uint8Array(128);
  for (let i = 0; i < ALPHABET.length; i++) DIGIT[ALPHABET.charCodeAt(i)] = i;

  function decode85(text) {
    const words = Math.floor(text.length / 5);
    const view = new DataView(new ArrayBuffer(words * 4));
    for (let w = 0, i = 0; w < words; w++, i += 5) {
      let value = 0;
      for (let j = 0; j < 5; j++) value = value * 85 + DIGIT[text.charCodeAt(i + j)];
      view.setUint32(w * 4, value);
    }
    return view;
  }

  let halves = null;  // the value of every float16
  function halfTable() {
    if (halves) return halves;
    halves = new Float32Array(65536);
    for (let h = 0; h < 65536; h++) {
      const exponent = (h >> 10) & 31, fraction = h & 1023;
      let value;
      if (exponent === 31) value = fraction ? NaN : Infinity;
      else if (exponent === 0) value = fraction * 2 ** -24;
      else value = (1 + fraction / 1024) * 2 ** (exponent - 15);
      halves[h] = h & 0x8000 ? -value : value;
    }
    return halves;
  }

  // Reads the parts of one layer in the order in which they were written; each part begins at a
  // multiple of four bytes.
  class Reader {
    constructor(text) { this.view = decode85(text); this.at = 0; }
    // groups x size float16, each group scaled by its own power of two.
    halves(exponents, size) {
      const table = halfTable(), out = new Float32Array(exponents.length * size);
      for (let g = 0, i = 0; g < exponents.length; g++) {
        const factor = 2 ** exponents[g];
        for (let j = 0; j < size; j++, i++, this.at += 2) {
          out[i] = table[this.view.getUint16(this.at, true)] * factor;
        }
      }
      this.at = (this.at + 3) & ~3;
      return out;
    }
    floats(count) {
      const out = new Float32Array(count);
      for (let i = 0; i < count; i++, this.at += 4) out[i] = this.view.getFloat32(this.at, true);
      return out;
    }
  }

  // A product of `width` components. Four sums at once: a single one would wait for itself.
  function dot(Q, a, K, b, width) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    const end = a + (width & ~3);
    for (; a < end; a += 4, b += 4) {
      s0 += Q[a] * K[b];
      s1 += Q[a + 1] * K[b + 1];
      s2 += Q[a + 2] * K[b + 2];
      s3 += Q[a + 3] * K[b + 3];
    }
    for (const last = end + (width & 3); a < last; a++, b++) s0 += Q[a] * K[b];
    return s0 + s1 + (s2 + s3);
  }

  // --- The record --------------------------------------------------------------------------------

  // meta: the record's JSON. layerText(l), sketchText(l): the packed texts of layer l; they are opened
  // when first needed. A layer of a long text has a sketch: a picture and the row sums of every head.
  // One without queries and keys has that alone, and some exact rows. In cross-attention keys are of
  // tokens of their own.
  class Record {
    constructor(meta, layerText, sketchText) {
      this.meta = meta;
      this.layerText = layerText;
      this.sketchText = sketchText;
      this.numbers = meta.layer_numbers;
      this.cross = Boolean(meta.keys);
      this.tokens = meta.tokens;
      this.keyTokens = meta.keys || meta.tokens;
      this.n = this.tokens.text.length;
      this.keys = this.keyTokens.text.length;
      this.layers = meta.layers.length;
      this.heads = meta.heads;
      this.group = meta.heads / meta.kv_heads;
      this.width = meta.width;
      this.special = this.keyTokens.special;
      this.opened = new Array(this.layers).fill(null);
      this.sketches = new Array(this.layers).fill(null);
      this.infos = new Map();
      this.maskRows = meta.masks.map(() => null);
    }

    layer(l) {
      if (!this.opened[l]) {
        const about = this.meta.layers[l], { n, keys } = this, reader = new Reader(this.layerText(l));
        const open = { score: about.score, mask: about.mask };
        open.q = this.isWhole(l) ? reader.halves(about.q_exponent, n * this.width) : null;
        open.k = this.isWhole(l) ? reader.halves(about.k_exponent, keys * this.width) : null;
        open.norm = about.norm_exponent ? reader.halves(about.norm_exponent, keys) : null;
        if (!this.isWhole(l)) return this.opened[l] = open;
        open.relative = about.score.relative ? reader.floats(this.heads * (n + keys - 1)) : null;
        const bias = about.score.bias;  // shape [heads or 1, queries or 1, keys or 1]
        open.bias = bias ? reader.floats(bias[0] * bias[1] * bias[2]) : null;
        this.opened[l] = open;
      }
      return this.opened[l];
    }

    // Has the layer its queries and keys?
    isWhole(l) { return Boolean(this.meta.layers[l].q_exponent); }
    hasSketch(l) { return Boolean(this.meta.layers[l].sketch); }

    sketch(l) {
      if (!this.sketches[l]) {
        const { rows, columns, queries, picture_exponent, rows_exponent } = this.meta.layers[l].sketch;
        const reader = new Reader(this.sketchText(l)), n = this.n;
        const sketch = { rows, columns, queries, cells: reader.halves(picture_exponent, rows * columns) };
        sketch.lse = reader.floats(this.heads * n);
        sketch.shown = this.hasSpecial() ? reader.floats(this.heads * n) : null;
        sketch.exact = rows_exponent ? reader.halves(rows_exponent, this.keys) : null;
        this.sketches[l] = sketch;
      }
      return this.sketches[l];
    }

    // Can the row of a query be had? Those of all queries?
    hasRow(l, q) { return this.isWhole(l) || this.meta.layers[l].sketch.queries.includes(q); }
    hasRows(l) { return this.isWhole(l) || this.meta.layers[l].sketch.queries.length === this.n; }
    // Has the model states in place of keys? Their gates imply its rows.
    isImplied() { return Boolean(this.meta.implied); }

    hasSpecial() { return this.special.some(Boolean); }
    hasNorms() { return this.meta.layers.every((layer) => layer.norm_exponent); }

    // The key intervals [begin, end, step, begin, end, step, ...] that query q of the head may see.
    // A run is [rows, interval...]; an interval [begin, begin per row, end, end per row, step] moves
    // with the row, so that causal is a single run.
    intervals(l, h, q) {
      const mask = this.meta.layers[l].mask;
      const id = Array.isArray(mask) ? mask[h] : mask;
      if (!this.maskRows[id]) {
        const starts = [];
        let row = 0;
        for (const run of this.meta.masks[id]) {
          starts.push(row);
          row += run[0];
        }
        this.maskRows[id] = starts;
      }
      const starts = this.maskRows[id];
      let low = 0, high = starts.length - 1;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (starts[middle] <= q) low = middle; else high = middle - 1;
      }
      const run = this.meta.masks[id][low], down = q - starts[low], out = [];
      for (let i = 1; i < run.length; i++) {
        const [begin, beginStep, end, endStep, step] = run[i];
        out.push(begin + down * beginStep, end + down * endStep, step);
      }
      return out;
    }

    visible(l, h, q, k) {
      const spans = this.intervals(l, h, q);
      for (let i = 0; i < spans.length; i += 3) {
        if (k >= spans[i] && k < spans[i + 1] && (k - spans[i]) % spans[i + 2] === 0) return true;
      }
      return false;
    }

    // What follows the product of one pair: scale, soft cap, then everything that is added.
    bias(open, h, q, k) {
      const score = open.score, { n, keys: count } = this;
      let added = 0;
      if (open.bias) {
        const [heads, queries, keys] = score.bias;
        const at = ((heads > 1 ? h : 0) * queries + (queries > 1 ? q : 0)) * keys;
        added += open.bias[at + (keys > 1 ? k : 0)];
      }
      if (score.alibi) added -= score.alibi[h] * Math.abs(q - k);
      if (open.relative) added += open.relative[h * (n + count - 1) + (k - q) + n - 1];
      return added;
    }

    // Scores of one row into `out` where visible; returns the intervals.
    scores(l, h, q, out) {
      const open = this.layer(l), width = this.width, score = open.score;
      const query = (h * this.n + q) * width, keys = Math.floor(h / this.group) * this.keys * width;
      const Q = open.q, K = open.k, cap = score.soft_cap;
      const biased = open.bias || score.alibi || open.relative;
      const spans = this.intervals(l, h, q);
      for (let i = 0; i < spans.length; i += 3) {
        for (let k = spans[i]; k < spans[i + 1]; k += spans[i + 2]) {
          let sum = dot(Q, query, K, keys + k * width, width) * score.scale;
          if (cap) sum = cap * Math.tanh(sum / cap);
          out[k] = biased ? sum + this.bias(open, h, q, k) : sum;
        }
      }
      return spans;
    }

    // Probabilities of one row into `out` (zero where hidden); returns the log-sum-exp, with the
    // sink, or -Infinity for a row that sees nothing.
    row(l, h, q, out) {
      if (!this.isWhole(l)) return this.keptRow(l, h, q, out);
      const spans = this.scores(l, h, q, this.scratch ||= new Float64Array(this.keys));
      const s = this.scratch, sinks = this.meta.layers[l].score.sinks;
      let top = sinks ? sinks[h] : -Infinity;
      out.fill(0);
      for (let i = 0; i < spans.length; i += 3) {
        for (let k = spans[i]; k < spans[i + 1]; k += spans[i + 2]) if (s[k] > top) top = s[k];
      }
      if (top === -Infinity) return -Infinity;
      let sum = sinks ? Math.exp(sinks[h] - top) : 0;
      for (let i = 0; i < spans.length; i += 3) {
        for (let k = spans[i]; k < spans[i + 1]; k += spans[i + 2]) {
          sum += out[k] = Math.exp(s[k] - top);
        }
      }
      const inverse = 1 / sum;
      for (let k = 0; k < out.length; k++) out[k] *= inverse;
      return top + Math.log(sum);
    }

    keptRow(l, h, q, out) {
      const { queries, exact, lse } = this.sketch(l), keys = this.keys;
      const at = (h * queries.length + queries.indexOf(q)) * keys;
      out.set(exact.subarray(at, at + keys));
      return lse[h * this.n + q];
    }

    // Log-sum-exp of every row, and the mass that each leaves on tokens that are not special.
    // Needed for columns; kept. The worker sends them in for every head.
    info(l, h) {
      const key = l * this.heads + h;
      if (!this.infos.has(key) && this.hasSketch(l)) {
        const { lse, shown } = this.sketch(l), part = (x) => x && x.subarray(h * this.n, (h + 1) * this.n);
        this.infos.set(key, { lse: part(lse), shown: part(shown) });
      }
      if (!this.infos.has(key)) {
        const lse = new Float64Array(this.n), shown = new Float64Array(this.n);
        const row = new Float64Array(this.keys);
        for (let q = 0; q < this.n; q++) {
          lse[q] = this.row(l, h, q, row);
          shown[q] = this.shownMass(row);
        }
        this.infos.set(key, { lse, shown });
      }
      return this.infos.get(key);
    }
    hasInfo(l, h) { return this.hasSketch(l) || this.infos.has(l * this.heads + h); }
    setInfo(l, h, info) { this.infos.set(l * this.heads + h, info); }

    shownMass(row) {
      let mass = 0;
      for (let k = 0; k < row.length; k++) if (!this.special[k]) mass += row[k];
      return mass;
    }

    // "Why": one pair, component by component.
    explain(l, h, q, k) {
      const open = this.layer(l), { n, keys, width } = this, score = open.score;
      const a = (h * n + q) * width, b = (Math.floor(h / this.group) * keys + k) * width;
      const query = open.q.slice(a, a + width), key = open.k.slice(b, b + width);
      const products = Float64Array.from(query, (x, d) => x * key[d]);
      let sum = 0;
      for (const p of products) sum += p;
      const scaled = sum * score.scale;
      const capped = score.soft_cap ? score.soft_cap * Math.tanh(scaled / score.soft_cap) : scaled;
      const bias = this.bias(open, h, q, k), row = new Float64Array(keys);
      const lse = this.row(l, h, q, row);
      return { query, key, products, sum, scale: score.scale, scaled, softCap: score.soft_cap, capped,
               bias, score: capped + bias, lse, visible: this.visible(l, h, q, k),
               probability: row[k], norm: open.norm ? open.norm[h * keys + k] : null };
    }
  }

  // --- What a view shows -------------------------------------------------------------------------
  // A view shows units: tokens, or words when sub-words are merged; special tokens are left out when
  // they are hidden. Its numbers are means over the chosen heads. Queries and keys have units each:
  // the same ones but in cross-attention.

  function makeUnits(tokens, { merge, hide }) {
    const { word, special, segment } = tokens, n = word.length;
    const units = [], of = new Int32Array(n).fill(-1);
    for (let t = 0; t < n; t++) {
      if (hide && special[t]) continue;
      const last = units.length ? units[units.length - 1] : null;
      const before = t - 1;
      const joins = merge && last && last[last.length - 1] === before && word[t] >= 0 &&
                    word[t] === word[before] && segment[t] === segment[before];
      if (joins) last.push(t); else units.push([t]);
      of[t] = units.length - 1;
    }
    return { tokens, units, of, count: units.length };
  }

  class View {
    // heads: list of [layer, head]; options: {merge, hide, value}.
    constructor(record, heads, options) {
      this.record = record;
      this.heads = heads;
      this.options = options;
      this.q = makeUnits(record.tokens, options);
      this.k = record.cross ? makeUnits(record.keyTokens, options) : this.q;
      this.tokenRow = new Float64Array(record.keys);
    }

    // Weights of one query token over units, added into `out` times `factor`.
    addToken(l, h, q, factor, out) {
      const { record, options, tokenRow: row } = this, { of } = this.k;
      record.row(l, h, q, row);
      if (options.hide) {
        const shown = record.shownMass(row);
        factor = shown > 0 ? factor / shown : 0;
      }
      const norm = options.value ? record.layer(l).norm : null;
      for (let k = 0; k < row.length; k++) {
        if (of[k] >= 0) out[of[k]] += row[k] * (norm ? norm[h * row.length + k] : 1) * factor;
      }
    }

    isWhole() { return this.heads.every(([l]) => this.record.isWhole(l)); }
    hasRows() { return this.heads.every(([l]) => this.record.hasRows(l)); }
    // Units are tokens, as they are.
    isPlain() { return this.q.count === this.record.n && this.k.count === this.record.keys && !this.options.value; }
    hasRow(queries) {
      return this.heads.every(([l]) => queries.every((u) => this.q.units[u].every((q) => this.record.hasRow(l, q))));
    }

    // Where the units `queries` look, averaged over them: one number a key unit.
    row(queries) {
      const out = new Float64Array(this.k.count);
      for (const u of queries) {
        const factor = 1 / (queries.length * this.q.units[u].length * this.heads.length);
        for (const q of this.q.units[u]) {
          for (const [l, h] of this.heads) this.addToken(l, h, q, factor, out);
        }
      }
      return out;
    }

    // How much every query unit looks at the units `keys`, summed inside a word and averaged over `keys`.
    column(keys) {
      const { record, options } = this, out = new Float64Array(this.q.count);
      if (!this.isWhole()) return this.keptColumn(keys);
      for (const [l, h] of this.heads) {
        const open = record.layer(l), { lse, shown } = record.info(l, h);
        for (let u = 0; u < this.q.count; u++) {
          const factor = 1 / (keys.length * this.q.units[u].length * this.heads.length);
          for (const q of this.q.units[u]) {
            const scale = options.hide ? (shown[q] > 0 ? factor / shown[q] : 0) : factor;
            if (lse[q] === -Infinity) continue;
            for (const unit of keys) {
              for (const k of this.k.units[unit]) {
                if (!record.visible(l, h, q, k)) continue;
                const weight = Math.exp(this.score(open, l, h, q, k) - lse[q]) * scale;
                out[u] += options.value && open.norm ? weight * open.norm[h * record.keys + k] : weight;
              }
            }
          }
        }
      }
      return out;
    }
    // The same from rows that are all there.
    keptColumn(keys) {
      const inKeys = (row) => keys.reduce((sum, u) => sum + row[u], 0) / keys.length;
      return Float64Array.from({ length: this.q.count }, (_, u) => inKeys(this.row([u])));
    }
    // Columns need the row sums of every head: are they there?
    columnReady() { return this.heads.every(([l, h]) => this.record.hasInfo(l, h)); }

    score(open, l, h, q, k) {
      const { record } = this, width = record.width, Q = open.q, K = open.k;
      const a = (h * record.n + q) * width, b = (Math.floor(h / record.group) * record.keys + k) * width;
      let sum = dot(Q, a, K, b, width) * open.score.scale;
      if (open.score.soft_cap) sum = open.score.soft_cap * Math.tanh(sum / open.score.soft_cap);
      return sum + record.bias(open, h, q, k);
    }

    // The picture's size with at most `most` cells on a side.
    size(most) { return pooling(this.q.count, this.k.count, most); }

    // Rows [begin, end) of the whole picture of that size, added into `out` [rows][columns].
    addMatrix(begin, end, size, out) {
      for (let u = begin; u < end; u++) addRow(this.row([u]), u, this.q.count, size, out);
    }
  }

  // Cells are means over rowPool x columnPool pairs, fewer at the lower and right edges.
  function pooling(queries, keys, most) {
    const pool = (count) => Math.max(1, Math.ceil(count / most));
    const rowPool = pool(queries), columnPool = pool(keys);
    return { rowPool, columnPool, rows: Math.ceil(queries / rowPool), columns: Math.ceil(keys / columnPool) };
  }

  function addRow(row, q, queries, { rowPool, columnPool, columns }, out) {
    const down = Math.floor(q / rowPool), base = down * columns;
    if (rowPool === 1 && columnPool === 1) return out.set(row, base);
    const high = Math.min(rowPool, queries - down * rowPool);
    for (let k = 0; k < row.length; k++) {
      const cell = Math.floor(k / columnPool), wide = Math.min(columnPool, row.length - cell * columnPool);
      out[base + cell] += row[k] / (high * wide);
    }
  }

  // --- Thumbnails --------------------------------------------------------------------------------

  // One head pooled to at most `most` cells a side, with the row sums found on the way.
  function thumbnail(record, l, h, most) {
    const n = record.n, size = pooling(n, record.keys, most);
    const cells = new Float32Array(size.rows * size.columns), row = new Float64Array(record.keys);
    const lse = new Float64Array(n), shown = new Float64Array(n);
    for (let q = 0; q < n; q++) {
      lse[q] = record.row(l, h, q, row);
      shown[q] = record.shownMass(row);
      addRow(row, q, n, size, cells);
    }
    return { rows: size.rows, columns: size.columns, cells, lse, shown };
  }

  return { Record, View, thumbnail };
})();

// The worker: thumbnails of all heads in order, interrupted by pictures that somebody waits for.
function attnWorker() {
  "use strict";
  let record = null, thumbs = [], jobs = [];
  const texts = [];  // of layers, as they are sent
  const SLICE = 12;  // milliseconds between looks at the mailbox

  function step() {
    const start = performance.now();
    while (performance.now() - start < SLICE) {
      if (jobs.length) {
        const job = jobs[0];
        if (job.done < job.view.q.count) job.view.addMatrix(job.done, ++job.done, job.size, job.cells);
        if (job.done >= job.view.q.count) {
          jobs.shift();
          postMessage({ id: job.id, cells: job.cells }, [job.cells.buffer]);
        }
      } else if (thumbs.length) {
        const [l, h] = thumbs.shift();
        postMessage({ thumb: [l, h], ...AttnMaths.thumbnail(record, l, h, record.thumbSize) });
      } else {
        return;
      }
    }
    setTimeout(step, 0);
  }

  onmessage = ({ data }) => {
    const idle = !thumbs.length && !jobs.length;
    if (data.meta) {
      record = new AttnMaths.Record(data.meta, (l) => texts[l]);
      record.thumbSize = data.thumbSize;
    } else if (data.text) {
      texts[data.layer] = data.text;
      for (let h = 0; h < record.heads && !record.hasSketch(data.layer); h++) thumbs.push([data.layer, h]);
    } else if (data.cancel) {
      jobs = jobs.filter((job) => job.id !== data.cancel);
    } else {
      const view = new AttnMaths.View(record, data.heads, data.options);
      const size = view.size(data.most);
      jobs.push({ id: data.id, view, size, cells: new Float32Array(size.rows * size.columns), done: 0 });
    }
    if (idle) setTimeout(step, 0);
  };
}
