// Opens the record in the page, and shares the heavy work with a worker.

const THUMB = 64;        // cells a side of a thumbnail
const PICTURE = 1024;    // cells a side of a heat map, at most
const AT_ONCE = 1.2e7;   // products that are computed without asking the worker
const AT_MOST = 4e9;     // products that are worth waiting for

const source = (id) => document.getElementById(id).textContent.trim();
const page = JSON.parse(source("attn-data"));
// A record a tab; one alone has no name.
const tabs = page.records.map((meta, i) => ({
  name: meta.name,
  record: new AttnMaths.Record(meta, (l) => source(`attn-layer-${i}-${l}`), (l) => source(`attn-sketch-${i}-${l}`)),
  background: null,
}));
let record = tabs[0].record, background = null;  // of the tab that is open

// The text of a token and of a unit, as a person would read it. `tokens`: a record's, of its queries
// or its keys.
function visibleText(tokens, text) {
  const shown = text.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥")
    .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g, "◌");
  return tokens.verbatim ? shown.replace(/[ \u00a0]/g, "·") : shown;
}
function continues(tokens, t) {
  return t > 0 && tokens.word[t] >= 0 && tokens.word[t] === tokens.word[t - 1] &&
         tokens.segment[t] === tokens.segment[t - 1];
}
function plainText(tokens, t) {
  const text = visibleText(tokens, tokens.text[t]);
  if (tokens.verbatim) return text || "⋯";  // inside a character
  const bare = continues(tokens, t) ? text.replace(/^##/, "") : text.replace(/^[▁Ġ]/, "");
  return bare || text;
}
// `side`: a view's q or k.
function unitText({ tokens, units }, u) {
  const unit = units[u];
  if (tokens.verbatim) return visibleText(tokens, unit.map((t) => tokens.text[t]).join("")) || "⋯";
  return unit.length === 1 ? visibleText(tokens, tokens.text[unit[0]]) : unit.map((t) => plainText(tokens, t)).join("");
}
// With its spaces as they are.
function verbatimText({ tokens, units }, u) {
  return units[u].map((t) => tokens.text[t].split(" ").map((part) => visibleText(tokens, part)).join(" ")).join("") || "⋯";
}
function shortText(side, u, most = 18) {
  const letters = Array.from(unitText(side, u));
  return directed(letters.length > most ? letters.slice(0, most - 1).join("") + "…" : letters.join(""));
}
// Text of a script that runs to the left keeps its order among text that runs to the right.
function directed(text) {
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(text) ? "\u2068" + text + "\u2069" : text;
}
function isSpecial({ tokens, units }, u) { return Boolean(tokens.special[units[u][0]]); }

// The heavy work of a tab: thumbnails as they arrive, pictures by request.
class Background {
  constructor(tab) {
    this.tab = tab;
    this.record = tabs[tab].record;
    this.thumbs = new Map();    // by the names of heads and of means: {rows, columns, cells}
    this.listeners = [];
    this.pictures = new Map();  // key -> {rows, columns, rowPool, columnPool, cells}
    this.waiting = new Map();   // id -> {key, size, done}
    this.lastId = 0;
    this.worker = null;
  }

  start() {
    const { record } = this;
    this.sent = new Set();
    try {
      const code = source("attn-maths") + "\nattnWorker();";
      this.url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
      this.worker = new Worker(this.url);
      this.worker.onmessage = ({ data }) => this.receive(data);
      this.worker.onerror = () => { this.worker = null; this.slowly(); };
      this.worker.postMessage({ meta: record.meta, thumbSize: THUMB });
      for (let l = 0; l < record.layers; l++) if (!record.hasSketch(l)) this.send(l);
      this.unpack();
    } catch {
      this.worker = null;
      this.slowly();
    }
  }

  send(l) {
    if (this.sent.has(l)) return;
    this.sent.add(l);
    this.worker.postMessage({ layer: l, text: source(`attn-layer-${this.tab}-${l}`) });
  }

  // What the file brings, a layer at a time, between other things.
  unpack(l = 0) {
    const { record } = this;
    if (l === record.layers) return;
    for (let h = 0; h < record.heads && record.hasSketch(l); h++) this.receive({ thumb: [l, h], ...this.brought(l, h) });
    setTimeout(() => this.unpack(l + 1), 0);
  }
  brought(l, h) { return shrink(partOf(this.record.sketch(l), h), THUMB, THUMB); }

  // Without workers: one thumbnail at a time, between other things.
  slowly() {
    const { record } = this;
    const list = headList({ l: -1, h: -1 }, record).filter(([l, h]) => !this.thumbs.has(headName({ l, h }, record)));
    const step = () => {
      const next = list.shift();
      if (!next) return;
      const brought = record.hasSketch(next[0]);
      this.receive({ thumb: next, ...(brought ? this.brought(...next) : AttnMaths.thumbnail(record, ...next, THUMB)) });
      setTimeout(step, brought ? 0 : 30);
    };
    step();
  }

  receive(data) {
    const { record } = this;
    if (data.thumb) {
      const [l, h] = data.thumb;
      if (data.lse) record.setInfo(l, h, { lse: data.lse, shown: data.shown });
      this.thumbs.set(headName({ l, h }, record), data);
      this.addMean(headName({ l, h: -1 }, record), data, record.heads);
      this.addMean("avg", data, record.heads * record.layers);
      for (const listener of this.listeners) listener(l, h);
      return;
    }
    const wait = this.waiting.get(data.id);
    if (!wait) return;
    this.waiting.delete(data.id);
    this.keep(wait.key, { ...wait.size, cells: data.cells });
    wait.done();
  }

  addMean(name, { rows, columns, cells }, count) {
    if (!this.thumbs.has(name)) this.thumbs.set(name, { rows, columns, cells: new Float32Array(cells.length), heads: 0 });
    const mean = this.thumbs.get(name);
    for (let i = 0; i < cells.length; i++) mean.cells[i] += cells[i] / count;
    mean.complete = ++mean.heads === count;
  }

  keep(key, picture) {
    this.pictures.set(key, picture);
    if (this.pictures.size > 6) this.pictures.delete(this.pictures.keys().next().value);
  }

  // Can all rows of a view be computed without anybody noticing?
  isQuick(view) { return this.products(view) <= AT_ONCE; }
  products(view) { return view.heads.length * this.record.n * this.record.keys * this.record.width; }

  // A coarse picture of a view from what the file brings, or null.
  sketch(view) {
    const { record } = this;
    if (!view.isPlain() || !view.heads.every(([l]) => record.hasSketch(l))) return null;
    const sketches = view.heads.map(([l, h]) => partOf(record.sketch(l), h));
    const rows = Math.min(...sketches.map((s) => s.rows)), columns = Math.min(...sketches.map((s) => s.columns));
    const cells = new Float32Array(rows * columns);
    for (const sketch of sketches) {
      const part = shrink(sketch, rows, columns).cells;
      for (let i = 0; i < cells.length; i++) cells[i] += part[i] / sketches.length;
    }
    return { rows, columns, rowPool: record.n / rows, columnPool: record.keys / columns, cells };
  }

  // Is the picture of a view computed? Else the page has a sketch of it, or nothing.
  computes(view) {
    if (!view.isWhole()) return view.hasRows() && this.isQuick(view);
    return !(this.products(view) > AT_MOST && view.heads.every(([l]) => this.record.hasSketch(l)));
  }

  // The whole picture of a view, or null, with `done` called once when it has come.
  picture(view, key, done) {
    if (this.pictures.has(key)) return this.pictures.get(key);
    if (!this.computes(view)) {
      const sketch = this.sketch(view);
      if (sketch) this.keep(key, sketch);
      return sketch;
    }
    const size = view.size(PICTURE);
    if (this.isQuick(view) || !this.worker) {
      const cells = new Float32Array(size.rows * size.columns);
      view.addMatrix(0, view.q.count, size, cells);
      this.keep(key, { ...size, cells });
      return this.pictures.get(key);
    }
    if ([...this.waiting.values()].some((wait) => wait.key === key)) return this.sketch(view);
    for (const id of this.waiting.keys()) this.worker.postMessage({ cancel: id });
    this.waiting.clear();
    const id = ++this.lastId;
    this.waiting.set(id, { key, size, done });
    for (const [l] of view.heads) this.send(l);
    this.worker.postMessage({ id, heads: view.heads, options: view.options, most: PICTURE });
    return this.sketch(view);  // until it has come
  }
}

// One head of a layer's sketch.
function partOf({ rows, columns, cells }, h) {
  return { rows, columns, cells: cells.subarray(h * rows * columns, (h + 1) * rows * columns) };
}

// A picture with at most so many cells; its sides are multiples of them, or not more.
function shrink({ rows, columns, cells }, mostRows, mostColumns) {
  if (rows <= mostRows && columns <= mostColumns) return { rows, columns, cells };
  const less = { rows: Math.min(rows, mostRows), columns: Math.min(columns, mostColumns) };
  const down = rows / less.rows, across = columns / less.columns, out = new Float32Array(less.rows * less.columns);
  for (let i = 0; i < cells.length; i++) {
    const row = Math.floor(Math.floor(i / columns) / down), column = Math.floor((i % columns) / across);
    out[row * less.columns + column] += cells[i] / (down * across);
  }
  return { ...less, cells: out };
}
