"""The steps of gpu_steps.ts by PyTorch and transformers: gpu_peer.py CASE CONFIG_JSON [--small]. One line of JSON."""
import json
import sys
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

case, shape, small = sys.argv[1], json.loads(sys.argv[2]), "--small" in sys.argv
device = "cuda" if torch.cuda.is_available() else "cpu"
kind, _, batch = case.split(" ")[0], case.split(" ")[1], case.partition(" x")[2]
torch.manual_seed(0)


def wait():
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(run, repetitions=3):
    times = []
    for i in range(repetitions + 1):
        wait()
        start = time.perf_counter()
        run()
        wait()
        if i > 0:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


config = AutoConfig.for_model(**shape)
model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").to(device)
rows, length = (2, 24) if small else (4, 4096)
ids = torch.randint(3, shape["vocab_size"], (rows, length), device=device)


def logprobs(tokens):
    logits = model(tokens).logits[:, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:, None])


if kind == "train":
    model.train()
    if shape["hidden_size"] >= 4096:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        for row in ids.split(1):
            (model(row, labels=row).loss / rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    seconds, tokens = median_seconds(step), rows * length
elif kind == "logprob":
    model.eval()
    with torch.no_grad():
        seconds, tokens = median_seconds(lambda: [logprobs(row) for row in ids.split(1)]), rows * length
else:
    model.eval()
    count, prompt, few, many = (int(batch), 20, 2, 24) if small else (int(batch), 960, 32, 96)
    prompts = torch.randint(3, shape["vocab_size"], (count, prompt), device=device)

    def generate(new):
        with torch.no_grad():
            model.generate(prompts, attention_mask=torch.ones_like(prompts), min_new_tokens=new, max_new_tokens=new,
                           do_sample=True, pad_token_id=0)

    seconds = (median_seconds(lambda: generate(many), 1) - median_seconds(lambda: generate(few), 1)) / (many - few)
    tokens = count
rate = tokens / seconds
print(json.dumps({"what": f"{rate:.3g} tokens/s", "seconds": seconds, "tokensPerSecond": rate}))
