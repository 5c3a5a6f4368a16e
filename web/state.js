// What is looked at. The whole state is in the address, so that every view is a link and the back
// button works: "#4.2&q=17&view=heat". Heads are layer.head from 0; "4.avg" is the mean of a layer,
// "avg" of all heads; no head is the overview. q and k are locked tokens, of queries and of keys.

const DEFAULTS = {
  tab: 0, head: null, view: "lines", dir: "from", q: [], k: [], scale: "linear", top: 0, min: 0,
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

// What compares the places of a query and a key, which are of two texts in cross-attention.
const PLACES = ["previous", "next", "self", "distance"];

function statisticsOf(record) {
  return STATISTICS.filter(([name]) => (name !== "special" || record.hasSpecial()) && !(record.cross && PLACES.includes(name)));
}

// Layers are named by their numbers in the model; here and elsewhere l is a layer's place in the record.
function headName({ l, h }, { numbers } = record) { return l < 0 ? "avg" : numbers[l] + (h < 0 ? ".avg" : "." + h); }
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

function tabKey(tab) { return tabs[tab].name.toLowerCase(); }

function writeLink(state) {
  let link = "#" + (state.head ? headName(state.head, tabs[state.tab].record) : "overview");
  if (state.tab !== DEFAULTS.tab) link += "&tab=" + tabKey(state.tab);
  for (const key of ["view", "dir", "scale", "stat", "top", "min", "zoom", "order"]) {
    if (state[key] !== DEFAULTS[key]) link += `&${key}=${state[key]}`;
  }
  for (const key of ["q", "k"]) if (state[key].length) link += `&${key}=${state[key].join(",")}`;
  for (const key of ["merge", "hide", "value"]) if (state[key]) link += `&${key}=1`;
  return link === "#overview" ? "#" : link;
}

function readLink(hash) {
  const state = { ...DEFAULTS, q: [], k: [] };
  const [head, ...rest] = decodeURIComponent(hash.replace(/^#/, "")).split("&");
  const parts = rest.map((part) => part.split("="));
  for (const [key, value] of parts) if (key === "tab") state.tab = Math.max(0, tabs.findIndex((_, i) => tabKey(i) === value));
  const { record } = tabs[state.tab];
  state.head = parseHead(head, record);
  for (const [key, value = ""] of parts) {
    if (key === "q" || key === "k") state[key] = [...new Set(value.split(",").map(Number))];
    else if (key === "view" && VIEWS.includes(value)) state.view = value;
    else if (key === "dir" && ["from", "at"].includes(value)) state.dir = value;
    else if (key === "scale" && ["linear", "log"].includes(value)) state.scale = value;
    else if (key === "order" && ["component", "size"].includes(value)) state.order = value;
    else if (key === "stat") state.stat = value;
    else if (key === "top") state.top = Math.max(0, Math.min(99, Math.floor(Number(value)) || 0));
    else if (key === "min") state.min = Math.max(0, Math.min(1, Number(value) || 0));
    else if (key === "zoom") state.zoom = Math.max(0, Math.min(48, Number(value) || 0));
    else if (["merge", "hide", "value"].includes(key)) state[key] = value === "1";
  }
  return fitted(state);
}

// Without what its tab has not.
function fitted(state) {
  const { record } = tabs[state.tab], inside = (most) => (t) => Number.isInteger(t) && t >= 0 && t < most;
  const next = { ...state, q: state.q.filter(inside(record.n)), k: state.k.filter(inside(record.keys)) };
  if (!statisticsOf(record).some(([name]) => name === state.stat)) next.stat = DEFAULTS.stat;
  if (record.cross) next.dir = DEFAULTS.dir;
  if (!record.hasNorms()) next.value = false;
  if (!record.hasSpecial()) next.hide = false;
  return next;
}

// The state in another tab: the same head, and the same queries where they are the same tokens.
function inTab(state, tab) {
  const from = tabs[state.tab].record, to = tabs[tab].record;
  const head = state.head && parseHead(headName(state.head, from), to);
  const same = String(from.tokens.text) === String(to.tokens.text);
  return fitted({ ...state, tab, head, q: same ? state.q : [], k: [] });
}
