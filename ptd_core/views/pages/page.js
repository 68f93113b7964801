// What both explorers share: elements, sliders, and saving the picture that stands on the page.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children (text or elements); in the SVG namespace if `tag` starts with "svg:". */
function make(tag, attributes = {}, ...children) {
  const drawn = tag.startsWith("svg:");
  const element = drawn ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map((child) => (typeof child === "object" ? child : String(child))));
  return element;
}

const shape = (tag, attributes, ...children) => make(`svg:${tag}`, attributes, ...children);

/** A labelled slider with its value beside it; `show` turns the value into text. */
function slider(id, label, { min, max, step, value, show = String }, changed) {
  const input = make("input", { type: "range", id, min, max, step });
  input.value = value;
  let exact = value; // what was set, until the reader moves it: an input rounds to its steps and its range
  const output = make("output", { for: id });
  const control = {
    element: make("div", { class: "control" }, make("label", { for: id }, label), input, output),
    get value() {
      return exact;
    },
    set value(next) {
      input.value = next;
      exact = next;
      control.refresh();
    },
    refresh() {
      output.textContent = show(exact);
      input.setAttribute("aria-valuetext", output.textContent);
    },
  };
  input.addEventListener("input", () => {
    exact = Number(input.value);
    control.refresh();
    changed();
  });
  control.refresh();
  return control;
}

/** A labelled list to choose from; its value is the option's position. */
function choice(id, label, options, value, changed) {
  const select = make("select", { id }, ...options.map((text, number) => make("option", { value: number }, text)));
  select.value = value;
  select.addEventListener("change", changed);
  return {
    element: make("div", { class: "control" }, make("label", { for: id }, label), select),
    get value() {
      return Number(select.value);
    },
  };
}

function button(id, text, pressed) {
  const element = make("button", { id, type: "button" }, text);
  element.addEventListener("click", pressed);
  return element;
}

/** Two buttons that save `picture` (an SVG with a viewBox) under `name()`. */
function saveButtons(picture, name) {
  return [
    button("save-svg", "save SVG", () => download(svgBlob(picture), `${name()}.svg`)),
    button("save-png", "save PNG", async () => download(await pngBlob(picture), `${name()}.png`)),
  ];
}

function svgBlob(picture) {
  const { width, height } = picture.viewBox.baseVal;
  const copy = picture.cloneNode(true);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.setAttribute("font-family", getComputedStyle(document.body).fontFamily);
  copy.prepend(shape("style", {}, document.getElementById("picture-style").textContent));
  return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
}

async function pngBlob(picture) {
  const { width, height } = picture.viewBox.baseVal;
  const address = URL.createObjectURL(svgBlob(picture));
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = make("canvas", { width: 2 * width, height: 2 * height });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false; // pixels of a small image stay square
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(address);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const NARROW = 560; // pixels: on a narrower page panels stand under each other, their text as large as elsewhere

const isNarrow = (root) => root.clientWidth < NARROW;

/** Call `draw` whenever `root` has become narrow or wide. */
function watchWidth(root, draw) {
  let drawn = isNarrow(root);
  new ResizeObserver(() => {
    if (isNarrow(root) === drawn) return;
    drawn = !drawn;
    draw();
  }).observe(root);
}

const ruler = document.createElement("canvas").getContext("2d");

/** `text` broken between words, and within longer ones, into lines of at most `width` in a font such as "bold 12px". */
function wrap(text, width, font) {
  ruler.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
  const fits = (line) => ruler.measureText(line).width <= width;
  const lines = [""];
  for (const word of text.split(" ")) {
    if (fits(`${lines.at(-1)} ${word}`)) {
      lines.push(`${lines.pop()} ${word}`.trimStart());
      continue;
    }
    lines.push("");
    for (const letter of word) lines.push(...(fits(lines.at(-1) + letter) ? [lines.pop() + letter] : [letter]));
  }
  return lines.filter((line) => line);
}

/** Run `draw` and write its duration in milliseconds on the body, for measurements. */
function timed(draw) {
  const start = performance.now();
  draw();
  document.body.dataset.updateMs = (performance.now() - start).toFixed(2);
}

/** Inside a notebook or an exported page, the frame grows with the page: nothing is cut or scrolls within it. */
function fitFrame() {
  const frame = window.frameElement;
  if (!frame) return;
  const fit = () => {
    frame.style.height = `${Math.ceil(document.body.getBoundingClientRect().height) + 2}px`;
  };
  new ResizeObserver(fit).observe(document.body);
  fit();
}
