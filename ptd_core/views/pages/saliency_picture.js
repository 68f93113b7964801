// The picture of the saliency explorer: for each model the image, its map, and the image with dropped tokens dark.
"use strict";

/** A function that draws what models show (see saliency_data.js) for a choice into `picture`, narrow or wide. */
function saliencyPicture(data, picture) {
  // Widths of the picture and of its panels; where the panels stand, and where the next model begins, both from the
  // end of a model's heading.
  const WIDE = { width: 720, panel: 190, photo: [4, 0], map: [218, 0], kept: [502, 0], height: 206 };
  const SLIM = { width: 360, panel: 168, photo: [4, 0], map: [4, 194], kept: [188, 0], height: 378 };
  const tokens = data.grid * data.grid;

  return (models, choice, narrow) => {
    const place = narrow ? SLIM : WIDE;
    const marks = [];
    let bottom = 0;
    for (const model of models) {
      const heading = wrap(`${model.label}: ${model.answers}`, place.width - 8, "bold 12px");
      const first = bottom + 30 + 16 * heading.length; // of the panels, below the heading and their own names
      heading.forEach((line, number) => {
        marks.push(shape("text", { x: 4, y: bottom + 16 * (number + 1), class: "heading" }, line));
      });
      marks.push(...panels(model, choice, place, first));
      bottom = first + place.height;
    }
    for (const line of wrap(data.stamp, place.width - 8, "9px")) {
      marks.push(shape("text", { x: 4, y: bottom + 14, class: "stamp" }, line));
      bottom += 12;
    }
    picture.setAttribute("viewBox", `0 0 ${place.width} ${bottom + 8}`);
    picture.replaceChildren(...marks);
  };

  function panels(model, { image, score, block, head, keep }, place, first) {
    const { panel } = place;
    const [photo, map, drop] = [place.photo, place.map, place.kept].map(([x, y]) => ({ x, y: first + y }));
    const name = ({ x, y }, text) => shape("text", { x, y: y - 10, class: "tick" }, text);
    return [
      name(photo, `image ${image}`),
      name(map, [data.scores[score].name, `block ${block}`, ...headName(head)].join(", ")),
      name(drop, `${keep} of ${model.reaching} tokens kept`),
      photograph(image, photo, panel),
      ...outline(image, photo, panel),
      ...mapCells(model, map, panel),
      ...colourBar(model, data.scores[score].unit, map, panel),
      photograph(image, drop, panel),
      ...dropped(model.kept, drop, panel),
      ...outline(image, drop, panel),
    ];
  }

  function headName(head) {
    if (head === null) return [];
    return [head ? `head ${head - 1}` : "mean of heads"];
  }

  function photograph(image, { x, y }, panel) {
    const place = { x, y, width: panel, height: panel, style: "image-rendering: pixelated" };
    return shape("image", { href: data.images[image], ...place });
  }

  function cell(token, { x, y }, panel, attributes) {
    const side = panel / data.grid;
    const [down, across] = [Math.floor(token / data.grid), token % data.grid];
    const place = { x: x + across * side, y: y + down * side, width: side, height: side };
    return shape("rect", { ...place, "shape-rendering": "crispEdges", ...attributes });
  }

  function mapCells({ levels, reached }, corner, panel) {
    return Array.from(levels, (level, token) => {
      const drawn = reached.has(token) ? { class: "saliency", fill: colour(level) } : { class: "absent", fill: "#ddd" };
      return cell(token, corner, panel, drawn);
    });
  }

  function dropped(kept, corner, panel) {
    const dark = { class: "dropped", fill: "#000", "fill-opacity": 0.75 };
    const gone = [...Array(tokens).keys()].filter((token) => !kept.has(token));
    return gone.map((token) => cell(token, corner, panel, dark));
  }

  function colour(level) {
    return `#${data.colours.slice(6 * level, 6 * level + 6)}`;
  }

  function colourBar({ lowest, highest, reached }, unit, { x, y }, panel) {
    const left = x + panel + 8;
    const step = panel / 64;
    const bar = Array.from({ length: 64 }, (_, number) =>
      shape("rect", {
        x: left,
        y: y + panel - (number + 1) * step,
        width: 12,
        height: step + 0.3,
        fill: colour(Math.round((255 * number) / 63)),
      }),
    );
    const text = (value, height) => shape("text", { x: left + 16, y: y + height, class: "tick" }, value);
    const grey = shape("text", { x, y: y + panel + 13, class: "tick" }, "grey: no token reaches this block");
    const texts = [text(number(highest), 10), text(unit, panel / 2 + 4), text(number(lowest), panel)];
    return [...bar, ...texts, ...(reached.size < tokens ? [grey] : [])];
  }

  function number(value) {
    return value === 0 ? "0" : value.toPrecision(2);
  }

  function outline(image, { x, y }, panel) {
    if (!data.outlines || !data.outlines[image]) return [];
    const scale = panel / data.side;
    const transform = `translate(${x} ${y}) scale(${scale})`;
    return [shape("path", { d: data.outlines[image], transform, class: "object", "stroke-width": 1.5 / scale })];
  }
}
