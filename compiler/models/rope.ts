/** Rotary position embeddings (Su et al. 2021): the table of cosines and sines that programs read. */
import type { ModelConfig } from "./config.ts";

/**
 * [positions, headDim]: per position headDim/2 cosines, then as many sines. Frequencies and angles are rounded to float32
 * where transformers rounds them, so that the angles are the same numbers.
 */
export function ropeTable(config: ModelConfig, positions: number): Float32Array<ArrayBuffer> {
  const half = config.headDim / 2, frequencies = inverseFrequencies(config);
  const table = new Float32Array(positions * config.headDim);
  for (let p = 0; p < positions; p++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(p * frequencies[i]!), at = p * config.headDim + i;
      table[at] = Math.cos(angle);
      table[at + half] = Math.sin(angle);
    }
  }
  return table;
}

/** Rotations per token in radians for each pair of a head, after the config's scaling. */
export function inverseFrequencies(config: ModelConfig): Float32Array<ArrayBuffer> {
  const { headDim, ropeTheta, ropeScaling: s } = config;
  const base = Float32Array.from(
    { length: headDim / 2 },
    (_, i) => 1 / Math.fround(ropeTheta ** Math.fround(2 * i / headDim)),
  );
  if (s?.kind === "linear") return base.map((f) => f / s.factor);
  if (s?.kind !== "llama3") return base;
  // Llama 3.1: long wavelengths are stretched, short ones kept, those between interpolated.
  const longest = s.originalMaxPositions / s.lowFrequencyFactor,
    shortest = s.originalMaxPositions / s.highFrequencyFactor;
  return base.map((f) => {
    const wavelength = 2 * Math.PI / f;
    if (wavelength > longest) return f / s.factor;
    if (wavelength < shortest) return f;
    const kept = (s.originalMaxPositions / wavelength - s.lowFrequencyFactor) /
      (s.highFrequencyFactor - s.lowFrequencyFactor);
    return (1 - kept) * f / s.factor + kept * f;
  });
}
