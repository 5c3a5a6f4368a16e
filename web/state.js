// What is looked at. The whole state is in the address, so that every view is a link and the back
// button works: "#4.2&q=17&view=heat". Heads are layer.head from 0; "4.avg" is the mean of a layer,
// "avg" of all heads; no head is the overview. q and k are locked tokens.

const DEFAULTS = {
  head: null, view: "lines", dir: "from", q: [], k: [], scale: "linear", top: 0, min: 0,
  merge: false, hide: false, value: false, stat: "entropy", zoom: 0, order: "component",
};
const VIEWS = ["lines", "heat", "text"];
const STATISTICS = [
  ["entropy", "Entropy", "entropy of the row over its largest possible value: 0 one key, 1 evenly over all keys"],
  ["previous", "Previous", "mass on the token before"],
  ["next", "Next", "mass on the token after"],
  ["self", "Self", "mass on the token itself"],
  ["first", "First", "mass on the first token"],
  ["special", "Special", "mass on special tokens such as [CLS] and [SEP]"],
];

function statisticsOf(record) {
  return STATISTICS.filter(([name]) => name !== "special" || record.hasSpecial());
}

// Layers are named by their numbers in the model; here and elsewhere l is a layer's place in the record.
function headName({ l, h }) { return l < 0 ? "avg" : record.numbers[l] + (h < 0 ? ".avg" : "." + h); }
function headTitle({ l, h }) {
  return l < 0 ? "Mean of all heads" : h < 0 ? `Mean of layer ${record.numbers[l]}` : `Head ${headName({ l, h })}`;
}
function parseHead(text, record) {
  if (text === "avg") return { l: -1, h: -1 };
  const match = /^(\d+)\.(\d+|avg)$/.exec(text);
  if (!match) return null;
  const l = record.numbers.indexOf(Number(match[1])), h = match[2] === "avg" ? -1 : Number(match[2]);
  return l >= 0 && h < record.heads ? { l, h } : null;
}
// The heads that a choice averages over.
function headList({ l, h }, record) {
  const list = [];
  for (let i = 0; i < record.layers; i++) {
    for (let j = 0; j < record.heads; j++) if ((l < 0 || l === i) && (h < 0 || h === j)) list.push([i, j]);
  }
  return list;
}

function writeLink(state) {
  let link = "#" + (state.head ? headName(state.head) : "overview");
  for (const key of ["view", "dir", "scale", "stat", "top", "min", "zoom", "order"]) {
    if (state[key] !== DEFAULTS[key]) link += `&${key}=${state[key]}`;
  }
  for (const key of ["q", "k"]) if (state[key].length) link += `&${key}=${state[key].join(",")}`;
  for (const key of ["merge", "hide", "value"]) if (state[key]) link += `&${key}=1`;
  return link === "#overview" ? "#" : link;
}

function readLink(hash, record) {
  const state = { ...DEFAULTS, q: [], k: [] };
  const [head, ...rest] = decodeURIComponent(hash.replace(/^#/, "")).split("&");
  state.head = parseHead(head, record);
  for (const part of rest) {
    const [key, value = ""] = part.split("=");
    if (key === "q" || key === "k") {
      const tokens = value.split(",").map(Number).filter((t) => Number.isInteger(t) && t >= 0 && t < record.n);
      state[key] = [...new Set(tokens)];
    } else if (key === "view" && VIEWS.includes(value)) state.view = value;
    else if (key === "dir" && ["from", "at"].includes(value)) state.dir = value;
    else if (key === "scale" && ["linear", "log"].includes(value)) state.scale = value;
    else if (key === "order" && ["component", "size"].includes(value)) state.order = value;
    else if (key === "stat" && statisticsOf(record).some(([name]) => name === value)) state.stat = value;
    else if (key === "top") state.top = Math.max(0, Math.min(99, Math.floor(Number(value)) || 0));
    else if (key === "min") state.min = Math.max(0, Math.min(1, Number(value) || 0));
    else if (key === "zoom") state.zoom = Math.max(0, Math.min(48, Number(value) || 0));
    else if (["merge", "hide", "value"].includes(key)) state[key] = value === "1";
  }
  if (!record.hasNorms()) state.value = false;
  if (!record.hasSpecial()) state.hide = false;
  return state;
}
