"""Makes the smaller model cases of this folder (those named below) with PyTorch and transformers.

pip install torch==2.15.0 transformers==5.23.0, then python make_models.py. fp32, eager attention, one thread. A case pins
what its name says in shapes that no vector width divides; tensors are those that tests/golden/models_test.ts reads.
No gradient but 0 is below 1e-7: of smaller ones, Adam turns the rounding into steps that PyTorch itself takes otherwise.
"""
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent
COMMON = dict(num_hidden_layers=2, max_position_embeddings=512, initializer_range=0.1, pad_token_id=0, bos_token_id=1,
              eos_token_id=2, attn_implementation="eager")
SHORT = dict(lengths=[24, 17, 9, 2], prompts=[10, 6, 3, 1])
CASES = {
    "mistral_window": ("Mistral", 0, SHORT, dict(
        hidden_size=20, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=27, vocab_size=53,
        sliding_window=6)),
    "llama_biases_linear": ("Llama", 0, SHORT, dict(
        hidden_size=18, num_attention_heads=3, num_key_value_heads=3, intermediate_size=23, vocab_size=71,
        attention_bias=True, mlp_bias=True, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0))),
    "qwen2_window_tied": ("Qwen2", 0, SHORT, dict(
        hidden_size=24, num_attention_heads=4, num_key_value_heads=2, intermediate_size=29, vocab_size=49,
        tie_word_embeddings=True, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    # Attention handles keys in blocks: several of them, and windows that begin inside one.
    "qwen3_long": ("Qwen3", 0, dict(lengths=[340, 65], prompts=[300, 128]), dict(
        hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=20, vocab_size=33,
        use_sliding_window=True, sliding_window=70, max_window_layers=1)),
}
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
STEPS = 16


def padded(rows, left):
    """Rows of ids as one matrix, and a mask of what is not padding."""
    width = max(map(len, rows))
    pad = lambda row: torch.zeros(width - len(row), dtype=torch.long)
    join = lambda row, values: torch.cat([pad(row), values] if left else [values, pad(row)])
    return (torch.stack([join(row, row) for row in rows]), torch.stack([join(row, torch.ones_like(row)) for row in rows]))


def make(name, family, seed, sizes, changes):
    config = getattr(transformers, f"{family}Config")(**{**COMMON, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():  # A port that leaves out a bias or a norm's weight must fail.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn(parameter.shape)
    folder = HERE / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()

    draw = lambda lengths: [torch.randint(3, config.vocab_size, (n,)) for n in lengths]
    ids, mask = padded(draw(sizes["lengths"]), left=False)
    tensors = dict(input_ids=ids, lengths=mask.sum(1))

    def loss():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]
        return logits, logprobs, -logprobs.sum() / mask[:, 1:].sum()

    optimizer, losses = torch.optim.AdamW(model.parameters(), **ADAMW), []
    for step in range(3):
        optimizer.zero_grad()
        logits, logprobs, value = loss()
        value.backward()
        losses.append(value.detach())
        if step == 0:
            gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
            norm = torch.sqrt(sum((g.double() ** 2).sum() for g in gradients.values())).item()
            tensors |= dict(logits=logits.detach() * mask[..., None], logprobs=logprobs.detach())
            tensors |= {f"grad.{n}": g for n, g in gradients.items()}
            tensors |= generated(model, draw(sizes["prompts"]))
        optimizer.step()
    tensors |= {f"step3.{n}": p.detach() for n, p in model.named_parameters()} | dict(step_losses=torch.stack(losses))
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "golden.safetensors")
    facts = dict(grad_norm=norm, torch=torch.__version__, transformers=transformers.__version__)
    (folder / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")
    small = min((g.abs()[g != 0].min().item(), n) for n, g in gradients.items() if not n.endswith("k_proj.bias"))
    print(name, "smallest gradient", small, "smallest margin", tensors.pop("gen_margin").min().item())


def generated(model, prompts):
    """Greedy continuations without any end, and how sure the model was of each token."""
    ids, mask = padded(prompts, left=True)
    model.generation_config.eos_token_id = None
    made = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=STEPS, pad_token_id=0,
                          output_logits=True, return_dict_in_generate=True)
    best = [logits.topk(2).values for logits in made.logits]
    return dict(gen_attention_mask=mask, gen_output_ids=made.sequences, gen_margin=torch.stack([b[:, 0] - b[:, 1] for b in best]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case, arguments in CASES.items():
        make(case, *arguments)
