// Opens the record in the page, and shares the heavy work with a worker.

const THUMB = 64;        // cells a side of a thumbnail
const PICTURE = 1024;    // cells a side of a heat map, at most
const AT_ONCE = 1.2e7;   // products that are computed without asking the worker
const AT_MOST = 4e9;     // products that are worth waiting for

const source = (id) => document.getElementById(id).textContent.trim();
const record = new AttnMaths.Record(JSON.parse(source("attn-data")), (l) => source("attn-layer-" + l),
                                    (l) => source("attn-sketch-" + l));

// The text of a token and of a unit, as a person would read it.
const tokens = record.meta.tokens;
function visibleText(text) {
  const shown = text.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥")
    .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g, "◌");
  return tokens.verbatim ? shown.replace(/[ \u00a0]/g, "·") : shown;
}
function continues(t) {
  return t > 0 && tokens.word[t] >= 0 && tokens.word[t] === tokens.word[t - 1] &&
         tokens.segment[t] === tokens.segment[t - 1];
}
function plainText(t) {
  const text = visibleText(tokens.text[t]);
  if (tokens.verbatim) return text || "⋯";  // inside a character
  const bare = continues(t) ? text.replace(/^##/, "") : text.replace(/^[▁Ġ]/, "");
  return bare || text;
}
function unitText(unit) {
  if (tokens.verbatim) return visibleText(unit.map((t) => tokens.text[t]).join("")) || "⋯";
  return unit.length === 1 ? visibleText(tokens.text[unit[0]]) : unit.map(plainText).join("");
}
// With its spaces as they are.
function verbatimText(unit) {
  return unit.map((t) => tokens.text[t].split(" ").map(visibleText).join(" ")).join("") || "⋯";
}
function shortText(unit, most = 18) {
  const letters = Array.from(unitText(unit));
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : letters.join("");
}

// Thumbnails as they arrive; pictures by request.
const background = {
  thumbs: new Map(),  // by the names of heads and of means: {side, cells}
  listeners: [],
  pictures: new Map(),  // key -> {side, pool, cells}
  waiting: new Map(),   // id -> {key, done}
  lastId: 0,
  worker: null,
  remaining: record.layers * record.heads,

  start() {
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
  },

  send(l) {
    if (this.sent.has(l)) return;
    this.sent.add(l);
    this.worker.postMessage({ layer: l, text: source("attn-layer-" + l) });
  },

  // What the file brings, a layer at a time, between other things.
  unpack(l = 0) {
    if (l === record.layers) return;
    for (let h = 0; h < record.heads && record.hasSketch(l); h++) this.receive({ thumb: [l, h], ...this.brought(l, h) });
    setTimeout(() => this.unpack(l + 1), 0);
  },
  brought(l, h) {
    const { side, cells } = record.sketch(l), size = side * side;
    return shrink(side, cells.subarray(h * size, (h + 1) * size), THUMB);
  },

  // Without workers: one thumbnail at a time, between other things.
  slowly() {
    const list = headList({ l: -1, h: -1 }, record).filter(([l, h]) => !this.thumbs.has(headName({ l, h })));
    const step = () => {
      const next = list.shift();
      if (!next) return;
      const brought = record.hasSketch(next[0]);
      this.receive({ thumb: next, ...(brought ? this.brought(...next) : AttnMaths.thumbnail(record, ...next, THUMB)) });
      setTimeout(step, brought ? 0 : 30);
    };
    step();
  },

  receive(data) {
    if (data.thumb) {
      const [l, h] = data.thumb;
      if (data.lse) record.setInfo(l, h, { lse: data.lse, shown: data.shown });
      this.thumbs.set(headName({ l, h }), data);
      this.remaining--;
      this.addMean(headName({ l, h: -1 }), data, record.heads);
      this.addMean("avg", data, record.heads * record.layers);
      for (const listener of this.listeners) listener(l, h);
      return;
    }
    const wait = this.waiting.get(data.id);
    if (!wait) return;
    this.waiting.delete(data.id);
    this.keep(wait.key, { ...wait.size, cells: data.cells });
    wait.done();
  },

  addMean(name, { side, cells }, count) {
    if (!this.thumbs.has(name)) this.thumbs.set(name, { side, cells: new Float32Array(cells.length), heads: 0 });
    const mean = this.thumbs.get(name);
    for (let i = 0; i < cells.length; i++) mean.cells[i] += cells[i] / count;
    mean.complete = ++mean.heads === count;
  },

  keep(key, picture) {
    this.pictures.set(key, picture);
    if (this.pictures.size > 6) this.pictures.delete(this.pictures.keys().next().value);
  },

  // Can all rows of a view be computed without anybody noticing?
  isQuick(view) { return this.products(view) <= AT_ONCE; },
  products(view) { return view.heads.length * record.n * record.n * record.width; },

  // A coarse picture of a view from what the file brings, or null.
  sketch(view) {
    if (!view.isPlain() || !view.heads.every(([l]) => record.hasSketch(l))) return null;
    const side = Math.min(...view.heads.map(([l]) => record.sketch(l).side)), cells = new Float32Array(side * side);
    for (const [l, h] of view.heads) {
      const { side: own, cells: all } = record.sketch(l), size = own * own;
      const part = shrink(own, all.subarray(h * size, (h + 1) * size), side).cells;
      for (let i = 0; i < cells.length; i++) cells[i] += part[i] / view.heads.length;
    }
    return { side, pool: record.n / side, cells };
  },

  // Is the picture of a view computed? Else the page has a sketch of it, or nothing.
  computes(view) {
    return view.isWhole() && !(this.products(view) > AT_MOST && view.heads.every(([l]) => record.hasSketch(l)));
  },

  // The whole picture of a view, or null, with `done` called once when it has come.
  picture(view, key, done) {
    if (this.pictures.has(key)) return this.pictures.get(key);
    if (!this.computes(view)) {
      const sketch = this.sketch(view);
      if (sketch) this.keep(key, sketch);
      return sketch;
    }
    const size = AttnMaths.pooling(view.count, PICTURE);
    if (this.isQuick(view) || !this.worker) {
      const cells = new Float32Array(size.side * size.side);
      view.addMatrix(0, view.count, size.pool, size.side, cells);
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
  },
};

// A picture with fewer cells; `side` is a multiple of `less`, or not more.
function shrink(side, cells, less) {
  if (side <= less) return { side, cells };
  const pool = side / less, out = new Float32Array(less * less);
  for (let i = 0; i < cells.length; i++) {
    const row = Math.floor(Math.floor(i / side) / pool), column = Math.floor((i % side) / pool);
    out[row * less + column] += cells[i] / (pool * pool);
  }
  return { side: less, cells: out };
}
