// The curriculum and its cost, as in schedule.py and cost.py. Settings have the recipe's names.
"use strict";

/** d(t), the share of patch tokens to drop in an epoch. */
function dropRatio(settings, epoch) {
  const { drop_init: init, drop_final: final, drop_start: start, drop_end: end, drop_gamma: gamma } = settings;
  if (epoch >= end) return settings.drop_hold ? final : 0;
  if (epoch < start) return init;
  return init + ((epoch - start) / (end - start)) ** gamma * (final - init);
}

/** k = floor((1 - d) N), at least 1; all N for d up to 1e-6. */
function keptTokens(ratio, patchTokens) {
  if (ratio <= 1e-6) return patchTokens;
  // Ratios are decimals that a person wrote, and floats miss them by less than 1e-9.
  return Math.max(1, Math.floor((1 - ratio) * patchTokens + 1e-9));
}

/** Every epoch's d and k, and the run's training operations per image with token drop and without. */
function runOfSchedule(settings, data) {
  const [constant, linear, quadratic] = data.costs[settings.drop_block];
  const ratios = [];
  const kept = [];
  let withDrop = 0;
  for (let epoch = 0; epoch < settings.epochs; epoch++) {
    const ratio = dropRatio(settings, epoch);
    const k = keptTokens(ratio, data.patchTokens);
    ratios.push(ratio);
    kept.push(k);
    withDrop += k === data.patchTokens ? data.costOfAll : constant + k * (linear + k * quadratic);
  }
  return { ratios, kept, withDrop, without: settings.epochs * data.costOfAll };
}
