"""Writes adapters as PEFT saves them, and log-probabilities of the adapted models: for tests/golden/peft_test.ts.

    pip install torch transformers peft && python make.py
"""
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

here = pathlib.Path(__file__).parent
CASES = {
    "qwen3_qknorm": dict(r=3, lora_alpha=5, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
    "llama_tied": dict(r=16, lora_alpha=4, target_modules=["v_proj", "down_proj"]),
}
ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]])

for name, options in CASES.items():
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(here.parent / name, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **options)).eval()
    for key, value in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(value.data, std=0.2)
    with torch.no_grad():
        logprobs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    out = here / name
    model.peft_config["default"].base_model_name_or_path = name
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    save_file({"input_ids": ids[0].int(), "logprobs": logprobs.contiguous()}, out / "golden.safetensors")
