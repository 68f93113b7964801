// The curriculum and its cost, in exact integers as in schedule.py and cost.py. Settings have the recipe's names.
"use strict";

/** A fraction of BigInts. */
const fraction = (above, below = 1n) => ({ above, below });

/** The decimal that a person wrote, such as 0.35, as a fraction. */
function decimal(value) {
  const [mantissa, exponent = "0"] = String(value).split("e");
  const [whole, digits = ""] = mantissa.split(".");
  const power = digits.length - Number(exponent);
  const above = BigInt(whole + digits);
  return power >= 0 ? fraction(above, 10n ** BigInt(power)) : fraction(above * 10n ** BigInt(-power));
}

/** A double's exact value: a whole number over a power of two. */
function exactly(double) {
  let below = 1n;
  while (!Number.isInteger(double)) {
    double *= 2;
    below *= 2n;
  }
  return fraction(BigInt(double), below);
}

/** d(t) as a fraction. */
function dropRatio(settings, epoch) {
  const { drop_start: start, drop_end: end, drop_gamma: gamma } = settings;
  const init = decimal(settings.drop_init);
  const final = decimal(settings.drop_final);
  if (epoch >= end) return settings.drop_hold ? final : fraction(0n);
  if (epoch < start) return init;
  const rise = Number.isInteger(gamma)
    ? fraction(BigInt(epoch - start) ** BigInt(gamma), BigInt(end - start) ** BigInt(gamma))
    : exactly(((epoch - start) / (end - start)) ** gamma);
  const below = init.below * final.below * rise.below;
  const span = final.above * init.below - init.above * final.below;
  return fraction(init.above * final.below * rise.below + rise.above * span, below);
}

const asNumber = ({ above, below }) => {
  // Divided as integers first: both parts can be too large for a double.
  const scale = 10n ** 18n;
  return Number((above * scale) / below) / 1e18;
};

/** k(t) = floor((1 - d(t)) N), at least 1; all N for d up to 1e-6. */
function keptTokens(ratio, patchTokens) {
  if (ratio.above * 1_000_000n <= ratio.below) return patchTokens;
  const kept = Number(((ratio.below - ratio.above) * BigInt(patchTokens)) / ratio.below);
  return Math.max(1, kept);
}

/** Training operations per image when a block keeps k tokens: the quadratic through the three values in `price`. */
function trainingCost(price, kept) {
  if (kept === price.patchTokens) return BigInt(price.whole);
  const [first, slope, bend] = price.newton.map(BigInt);
  const steps = BigInt(kept - 1);
  return first + steps * slope + ((steps * (steps - 1n)) / 2n) * bend;
}

/** Every epoch's d and k, and the run's operations per image with token drop and without. */
function runOfSchedule(settings, data) {
  const price = { patchTokens: data.patchTokens, whole: data.whole, newton: data.newton[settings.drop_block] };
  const ratios = [];
  const kept = [];
  let withDrop = 0n;
  for (let epoch = 0; epoch < settings.epochs; epoch++) {
    const ratio = dropRatio(settings, epoch);
    ratios.push(asNumber(ratio));
    kept.push(keptTokens(ratio, data.patchTokens));
    withDrop += trainingCost(price, kept[epoch]);
  }
  return { ratios, kept, withDrop, without: BigInt(settings.epochs) * BigInt(data.whole) };
}
