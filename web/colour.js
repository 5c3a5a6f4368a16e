// Colours. One sequential scale a theme, with monotone lightness from the page's ground (nothing) to
// the strongest contrast (all), blue against yellow, so that it reads without red-green vision.

const RAMPS = {
  light: ["#ffffff", "#e4f0ef", "#bcdcd9", "#82c2c4", "#46a0b5", "#24799f", "#1e5488", "#1c326c", "#120f3f"],
  dark: ["#181c21", "#15304a", "#174a70", "#1f668a", "#2f8696", "#59a78f", "#98c47d", "#d9db78", "#fdf6b5"],
};

const ramps = {};  // theme -> 256 colours as [r, g, b]
function ramp(theme) {
  if (!ramps[theme]) {
    const stops = RAMPS[theme].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
    ramps[theme] = Array.from({ length: 256 }, (_, i) => {
      const at = (i / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
      return stops[low].map((c, j) => Math.round(c + (stops[low + 1][j] - c) * (at - low)));
    });
  }
  return ramps[theme];
}

function currentTheme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

// t in [0, 1]. For many at once take the ramp first: asking for the theme takes longer.
function rampRgb(t, colours = ramp(currentTheme())) {
  return colours[Math.max(0, Math.min(255, Math.round(t * 255))) || 0];
}
function rampColour(t) { return "rgb(" + rampRgb(t).join(",") + ")"; }

// Black or white, whichever reads on rampColour(t).
function inkOn(t) {
  const [r, g, b] = rampRgb(t);
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#10161c" : "#ffffff";
}

// A colour of style.css by its name.
function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

// Where a weight stands on the scale. Linear, or three decades below the largest.
const DECADES = 3;
function position(value, most, scale) {
  if (!(value > 0) || !(most > 0)) return 0;
  if (scale === "log") return Math.max(0, 1 + Math.log10(value / most) / DECADES);
  return Math.min(1, value / most);
}

// A weight for people: three significant digits, no needless zeros.
function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (value < 0) return "−" + number(-value);
  const size = value;
  if (size >= 1e5 || size < 1e-4) return value.toExponential(1).replace("e", "·10^").replace("^+", "^").replace("^-", "^−");
  if (size >= 100) return value.toFixed(0);
  return value.toFixed(Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(size))))).replace(/(\.\d*?)0+$/, "$1")
              .replace(/\.$/, "");
}
function percent(value) {
  if (!(value >= 0)) return "–";
  return (value * 100).toFixed(value >= 0.0995 ? 0 : 1) + " %";
}

// The scale as a strip with its ends named.
function drawLegend(element, most, scale, what) {
  const key = [most, scale, what, currentTheme()].join();
  if (element.dataset.shown === key) return;
  element.dataset.shown = key;
  element.replaceChildren();
  const strip = document.createElement("canvas");
  strip.width = 128;
  strip.height = 1;
  const context = strip.getContext("2d");
  for (let i = 0; i < 128; i++) {
    context.fillStyle = rampColour(i / 127);
    context.fillRect(i, 0, 1, 1);
  }
  const ends = scale === "log" ? ["≤ " + number(most / 10 ** DECADES), number(most)] : ["0", number(most)];
  const span = (name, text) => {
    const e = document.createElement("span");
    e.className = name;
    e.textContent = text;
    return e;
  };
  element.append(span("what", what), span("end", ends[0]), strip, span("end", ends[1]));
  element.setAttribute("aria-label", `${what}: colours from ${ends[0]} to ${ends[1]}, ${scale} scale`);
}
