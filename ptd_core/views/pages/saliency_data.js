// What the models measured on the test images: maps of scores, kept tokens, answers; and the words for it.
"use strict";

const unpack = (text, Kind) => new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
const percent = (share) => `${(100 * share).toFixed(0)} %`;

/**
 * A function of a model's number and the reader's choice { image, score, block, head, keep, why, drop }.
 * drop: null for one block alone, where all tokens reach it; else the numbers { stop, place } of one of the run's drop
 * ratios and of its dropping blocks. head 0 is the mean.
 */
function saliencyData(data) {
  const tokens = data.grid * data.grid;
  const all = [...Array(tokens).keys()];
  const bytes = Math.ceil(tokens / 8);
  const objects = data.objects && unpack(data.objects, Uint16Array);
  const Rank = tokens > 256 ? Uint16Array : Uint8Array;
  const views = data.views.map((view) => ({
    ...view,
    alone: view.alone.map((maps) => ({ ...maps, levels: unpack(maps.levels, Uint8Array), order: unpack(maps.order, Rank) })),
    inRun: view.inRun.map((maps) => ({
      ...maps,
      levels: unpack(maps.levels, Uint8Array),
      reached: unpack(maps.reached, Uint8Array),
      kept: unpack(maps.kept, Uint8Array),
    })),
  }));

  return (number, choice) => {
    const view = views[number];
    const { image, block, keep, why } = choice;
    const shown = choice.drop ? inRun(view, choice) : alone(view, choice);
    const answers = `${truth(view, image)}; answers ${best(view, image)}`;
    const of = shown.reached.size < tokens ? `the ${shown.reaching} tokens that reach block ${block}` : `${tokens} tokens`;
    const fused = keep - shown.kept.size; // a fused token among the kept has no place in the image
    const marked = `${keep} of ${of} kept (${why})${fused ? ", one of them fused of several" : ""}`;
    return { ...shown, label: view.label, answers, sentence: `${answers}. ${marked}${covered(shown.kept, image)}.` };
  };

  /** One block with all tokens before it: the kept ones are the first of its ranks. */
  function alone(view, { image, score, block, head, keep }) {
    const maps = view.alone[score];
    const rows = data.scores[score].heads ? data.heads + 1 : 1;
    const map = (image * data.blocks + block) * rows + (rows > 1 ? head : 0);
    return {
      levels: maps.levels.subarray(map * tokens, (map + 1) * tokens),
      lowest: maps.lowest[map],
      highest: maps.highest[map],
      reached: new Set(all),
      reaching: tokens,
      kept: new Set(maps.order.subarray(map * tokens, map * tokens + keep)),
    };
  }

  /** One of the run's dropping blocks, after those before it have dropped theirs. */
  function inRun(view, { image, score, drop: { stop, place } }) {
    const maps = view.inRun[score];
    const { blocks, stops } = data.inRun;
    const map = (image * stops.length + stop) * blocks.length + place;
    const marked = (bits) => new Set(all.filter((token) => bits[map * bytes + (token >> 3)] & (128 >> (token & 7))));
    return {
      levels: maps.levels.subarray(map * tokens, (map + 1) * tokens),
      lowest: maps.lowest[map],
      highest: maps.highest[map],
      reached: marked(maps.reached),
      reaching: stops[stop].reaching[place],
      kept: marked(maps.kept),
    };
  }

  function truth(view, image) {
    const name = data.labels[image];
    return data.known[image] ? `true class ${name} (${percent(view.truth[image])})` : `${name}, true class unknown`;
  }

  function best(view, image) {
    return view.answers[image].map(([name, sure]) => `${name} ${percent(sure)}`).join(", ");
  }

  /** How much of the object lies under kept tokens, and how much of the kept area is object; empty if unknown. */
  function covered(kept, image) {
    if (!objects || !data.known[image]) return "";
    const counts = objects.subarray(image * tokens, (image + 1) * tokens);
    const whole = counts.reduce((sum, pixels) => sum + pixels, 0);
    const inside = [...kept].reduce((sum, token) => sum + counts[token], 0);
    const ofKept = percent(inside / (kept.size * data.pixelsPerToken));
    return `, with them ${percent(inside / whole)} of the object; ${ofKept} of what is kept is object`;
  }
}
