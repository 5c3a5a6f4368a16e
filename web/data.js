// Opens the record in the page, and shares the heavy work with a worker.

const THUMB = 64;        // cells a side of a thumbnail
const PICTURE = 1024;    // cells a side of a heat map, at most
const AT_ONCE = 1.2e7;   // products that are computed without asking the worker

const source = (id) => document.getElementById(id).textContent.trim();
const record = new AttnMaths.Record(JSON.parse(source("attn-data")), (l) => source("attn-layer-" + l));

// The text of a token and of a unit, as a person would read it.
const tokens = record.meta.tokens;
function visibleText(text) {
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g, "·");
}
function continues(t) {
  return t > 0 && tokens.word[t] >= 0 && tokens.word[t] === tokens.word[t - 1] &&
         tokens.segment[t] === tokens.segment[t - 1];
}
function plainText(t) {
  const text = visibleText(tokens.text[t]);
  const bare = continues(t) ? text.replace(/^##/, "") : text.replace(/^[▁Ġ]/, "");
  return bare || text;
}
function unitText(unit) {
  return unit.length === 1 ? visibleText(tokens.text[unit[0]]) : unit.map(plainText).join("");
}
function shortText(unit, most = 18) {
  const letters = Array.from(unitText(unit));
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : letters.join("");
}

// Thumbnails as they arrive; pictures by request.
const background = {
  thumbs: new Map(),  // "l.h" -> {side, cells}; also "l.avg" and "avg"
  listeners: [],
  pictures: new Map(),  // key -> {side, pool, cells}
  waiting: new Map(),   // id -> {key, done}
  lastId: 0,
  worker: null,
  remaining: record.layers * record.heads,

  start() {
    const layers = record.meta.layers.map((_, l) => source("attn-layer-" + l));
    const init = { meta: record.meta, layers, thumbSize: THUMB };
    try {
      const code = source("attn-maths") + "\nattnWorker();";
      this.url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
      this.worker = new Worker(this.url);
      this.worker.onmessage = ({ data }) => this.receive(data);
      this.worker.onerror = () => { this.worker = null; this.slowly(); };
      this.worker.postMessage(init);
    } catch {
      this.worker = null;
      this.slowly();
    }
  },

  // Without workers: one thumbnail at a time, between other things.
  slowly() {
    const list = headList({ l: -1, h: -1 }, record).filter(([l, h]) => !this.thumbs.has(l + "." + h));
    const step = () => {
      const next = list.shift();
      if (!next) return;
      this.receive({ thumb: next, ...AttnMaths.thumbnail(record, ...next, THUMB) });
      setTimeout(step, 30);
    };
    step();
  },

  receive(data) {
    if (data.thumb) {
      const [l, h] = data.thumb;
      record.setInfo(l, h, { lse: data.lse, shown: data.shown });
      this.thumbs.set(l + "." + h, data);
      this.remaining--;
      this.addMean(l + ".avg", data, record.heads);
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
  isQuick(view) { return view.heads.length * record.n * record.n * record.width <= AT_ONCE; },

  // The whole picture of a view, or null, with `done` called once when it has come.
  picture(view, key, done) {
    if (this.pictures.has(key)) return this.pictures.get(key);
    const size = AttnMaths.pooling(view.count, PICTURE);
    if (this.isQuick(view) || !this.worker) {
      const cells = new Float32Array(size.side * size.side);
      view.addMatrix(0, view.count, size.pool, size.side, cells);
      this.keep(key, { ...size, cells });
      return this.pictures.get(key);
    }
    if ([...this.waiting.values()].some((wait) => wait.key === key)) return null;
    for (const id of this.waiting.keys()) this.worker.postMessage({ cancel: id });
    this.waiting.clear();
    const id = ++this.lastId;
    this.waiting.set(id, { key, size, done });
    this.worker.postMessage({ id, heads: view.heads, options: view.options, most: PICTURE });
    return null;
  },
};
