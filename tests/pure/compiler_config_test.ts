import assert from "node:assert/strict";
import { compileUpdate } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { parseConfig } from "../../compiler/models/config.ts";
import {
  gradientBytes,
  parameterBytes,
  parameters,
  ropeTable,
  tiedGradient,
} from "../../compiler/models/transformer.ts";
import { ADAMW, TINY, tiny } from "./compiler_fixtures.ts";

Deno.test("parseConfig() reads the fields of transformers v4 and v5 alike", () => {
  const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 };
  const v4 = tiny({
    rope_theta: 5e5,
    rope_scaling: { rope_type: "llama3", ...llama3 },
    torch_dtype: "bfloat16",
  });
  const v5 = tiny({
    rope_parameters: { rope_theta: 5e5, rope_type: "llama3", ...llama3 },
    dtype: "bfloat16",
  });
  assert.deepEqual(v4, v5);
  assert.deepEqual(v4.ropeScaling, {
    kind: "llama3",
    factor: 8,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalMaxPositions: 32,
  });
  assert.deepEqual(tiny({ rope_scaling: { type: "linear", factor: 2 } }).ropeScaling, {
    kind: "linear",
    factor: 2,
  });
  assert.equal(tiny({ rope_scaling: null }).ropeScaling, null);
});

Deno.test("parseConfig() knows what each family has", () => {
  const of = (model_type: string, more = {}) => tiny({ model_type, architectures: undefined, ...more });
  assert.deepEqual([of("qwen2").attentionBias, of("qwen2").outputBias, of("qwen2").qkNorm], [
    true,
    false,
    false,
  ]);
  assert.deepEqual([of("qwen3").qkNorm, of("qwen3").headDim], [true, 128]);
  assert.deepEqual(
    [tiny({ attention_bias: true }).attentionBias, tiny({ attention_bias: true }).outputBias],
    [true, true],
  );
  assert.equal(tiny({ num_key_value_heads: undefined }).kvHeads, 4);
  assert.deepEqual(of("mistral", { sliding_window: 16 }).windows, [16, 16]);
  assert.deepEqual(of("mistral", { sliding_window: null }).windows, [0, 0]);
  assert.deepEqual(of("mistral").windows, [4096, 4096], "what transformers assumes");
  assert.deepEqual(
    of("qwen2", { sliding_window: 16, max_window_layers: 1 }).windows,
    [0, 0],
    "not switched on",
  );
  const slides = { use_sliding_window: true, sliding_window: 16 };
  assert.deepEqual(of("qwen2", { ...slides, max_window_layers: 1 }).windows, [0, 16]);
  assert.deepEqual(of("qwen2", slides).windows, [0, 0], "from layer 28 on");
  assert.deepEqual(of("qwen3", { ...slides, layer_types: ["sliding_attention", "full_attention"] }).windows, [
    16,
    0,
  ]);
  assert.deepEqual(tiny({ eos_token_id: [2, 7], pad_token_id: -1 }).eosTokens, [2, 7]);
});

Deno.test("parseConfig() lists every violation with the file and the field", () => {
  const broken = {
    ...TINY,
    hidden_size: 0,
    hidden_act: "gelu",
    attention_dropout: 0.1,
    quantization_config: { bits: 4 },
    vocab_size: undefined,
  };
  assert.throws(() => parseConfig(broken, "m/config.json"), (e: Error) => {
    assert.match(e.message, /^Cannot read m\/config\.json: /);
    for (
      const field of [
        "hidden_size is",
        'hidden_act is "gelu"',
        "attention_dropout is not 0",
        "quantization_config is set",
        "vocab_size is",
      ]
    ) {
      assert.ok(e.message.includes(field), `${field} in ${e.message}`);
    }
    return true;
  });
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ model_type: "gpt2" }, /model_type is wrong/],
    [
      { architectures: ["LlamaForQuestionAnswering"] },
      /architectures is LlamaForQuestionAnswering, and Baton has LlamaForCausalLM/,
    ],
    [{ rope_scaling: { rope_type: "yarn", factor: 4 } }, /rope type is "yarn"/],
    [{ rope_scaling: { rope_type: "linear" } }, /rope type "linear" is without factor/],
    [{ num_key_value_heads: 3 }, /num_key_value_heads is 3, which does not divide 4 heads/],
    [{ num_attention_heads: 32, num_key_value_heads: 32 }, /head_dim is 1, not a positive even number/],
    [{ layer_types: ["full_attention"] }, /layer_types is of length 1/],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor is not 1/],
  ];
  for (const [change, message] of cases) {
    assert.throws(() => parseConfig({ ...TINY, ...change }, "c"), message);
  }
  assert.throws(() => parseConfig([], "c"), /Cannot read c: the file is wrong/);
});

Deno.test("parameters() follow one another in memory under Hugging Face's names and shapes", () => {
  const config = tiny({ model_type: "qwen3", architectures: [], head_dim: 8, attention_bias: true });
  for (const head of ["lm", "value", "reward"] as const) {
    const all = parameters(config, head);
    let end = 0;
    for (const p of all) {
      assert.equal(p.offset, end, p.name);
      end = p.offset + 64 * Math.ceil(p.elements / 16);
    }
    assert.equal(parameterBytes(all), end);
    assert.equal(new Set(all.map((p) => p.name)).size, all.length);
  }
  const names = parameters(config, "lm").filter((p) => p.layer === 1).map((p) =>
    p.name.replace("model.layers.1.", "")
  );
  assert.deepEqual(names, [
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.k_proj.weight",
    "self_attn.k_proj.bias",
    "self_attn.v_proj.weight",
    "self_attn.v_proj.bias",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    "self_attn.o_proj.weight",
    "self_attn.o_proj.bias",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
  ]);
  const last = (head: "lm" | "value" | "reward", change = {}) => parameters(tiny(change), head).at(-1)!;
  assert.deepEqual([last("lm").name, last("lm").shape], ["lm_head.weight", [100, 32]]);
  assert.equal(last("lm", { tie_word_embeddings: true }).name, "model.norm.weight");
  assert.deepEqual([last("value").name, last("value").shape, last("value").init], [
    "score.weight",
    [1, 32],
    "zeros",
  ]);
  assert.equal(last("reward").init, "normal");
});

Deno.test("the embedding is stored in panels exactly where it is also the head", () => {
  const layout = (head: "lm" | "value", tied: boolean) =>
    parameters(tiny({ tie_word_embeddings: tied }), head)[0]!.layout;
  assert.deepEqual([layout("lm", true), layout("lm", false), layout("value", true)], [
    "panels",
    "rows",
    "rows",
  ]);
});

Deno.test("compileUpdate() places second moments behind the first ones, on cache lines", () => {
  const config = tiny({ hidden_size: 40, head_dim: 10, tie_word_embeddings: true }),
    all = parameters(config, "lm");
  const p = compileUpdate(wholeShard(config, "lm"), ADAMW), bytes = parameterBytes(all);
  assert.equal(p.segmentBytes.moments, 2 * bytes);
  for (const { name, offset } of all) {
    assert.deepEqual([p.ports[`moments/m.${name}`]!.offset, p.ports[`moments/v.${name}`]!.offset], [
      offset,
      bytes + offset,
    ]);
    assert.equal(p.ports[`grads/${name}`]!.offset, offset);
  }
});

Deno.test("a tied embedding has a second gradient behind the others, which the optimizer adds", () => {
  const config = tiny({ tie_word_embeddings: true }),
    shard = wholeShard(config, "lm"),
    all = shard.parameters,
    tied = tiedGradient(shard)!;
  assert.deepEqual([tied.offset, tied.elements], [parameterBytes(all), all[0]!.elements]);
  assert.equal(gradientBytes(shard), parameterBytes(all) + 4 * tied.elements);
  assert.equal(compileUpdate(wholeShard(config, "lm"), ADAMW).segmentBytes.grads, gradientBytes(shard));
  for (const untied of [wholeShard(tiny(), "lm"), wholeShard(config, "value")]) {
    assert.equal(tiedGradient(untied), undefined);
    assert.equal(gradientBytes(untied), parameterBytes(untied.parameters));
  }
});

Deno.test("ropeTable() has cosines then sines of position times frequency", () => {
  const config = tiny({ rope_theta: 100 }), table = ropeTable(config, 3);
  assert.equal(table.length, 3 * config.headDim);
  const frequencies = [1, 100 ** -0.25, 100 ** -0.5, 100 ** -0.75];
  frequencies.forEach((f, i) => {
    assert.ok(Math.abs(table[2 * 8 + i]! - Math.cos(2 * f)) < 1e-6);
    assert.ok(Math.abs(table[2 * 8 + 4 + i]! - Math.sin(2 * f)) < 1e-6);
  });
  const slow = ropeTable(tiny({ rope_theta: 100, rope_scaling: { rope_type: "linear", factor: 2 } }), 3);
  assert.ok(Math.abs(slow[2 * 8]! - Math.cos(1)) < 1e-7);
  assert.deepEqual(
    ropeTable(config, 5).subarray(0, table.length),
    table,
    "a longer table begins with the shorter one",
  );
});

Deno.test("ropeTable() stretches long wavelengths only for llama3 scaling", () => {
  const scaling = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 32,
  };
  const plain = ropeTable(tiny(), 2), scaled = ropeTable(tiny({ rope_scaling: scaling }), 2);
  // Wavelengths 2π, 63, 628 and 6283: kept below 8, divided by 8 above 32.
  assert.equal(scaled[8], plain[8]);
  for (const i of [1, 2, 3]) assert.ok(Math.abs(scaled[8 + 4 + i]! - Math.sin(10 ** -i / 8)) < 1e-7, `${i}`);
});
