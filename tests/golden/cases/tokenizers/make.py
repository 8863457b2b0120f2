"""Makes the two small tokenizers of this folder and their golden ids with Hugging Face's Rust library.

pip install tokenizers==0.23.3, then python make.py. `bytes` is of the GPT-2, Qwen and Llama 3 kind (byte-level BPE),
`pieces` of the Llama 2 kind (BPE over words that begin with U+2581, unknown characters as byte tokens).
"""
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
CORPUS = ["""The actor writes a response to every prompt, token by token, and stops at the end of its turn. The reward model reads
the whole response and gives it one number; the reference says how likely each token was before training began, and the
critic says how much reward is still to come. Advantages follow from all of these: the tokens that did better than the
critic thought become more likely, the others less so. Then the step is over, the new weights go to the devices that
will generate next, and the next prompts are taken from the data. A step's rewards, losses and lengths are written down,
so that a person can see whether the model learns anything or only gets longer, and what it says when it does.

A model that was trained on the first 1000 steps can be saved, loaded and trained for another 250; its 16 layers, 8 heads
and 3 learning rates are the same as before, and so is the order of the data. Don't worry: it's reproducible, they've
tested it. "Is that so?" we'd ask. (Yes - see the tests; they run in 0.5 seconds.)"""]
SPECIAL = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|stop|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t", " a", "a ", "Hello world", " Hello  world", "the devices of a mesh", "don't DON'T",
    "x1 12 123 1234567", "f(x) = x**2; // ok", "Äpfel, naïve, coöperate", "e\u0301 combined", "日本語とテキスト", "Привет, мир",
    "🐔 and 👩‍👩‍👧", "tabs\tand\r\nlines\r\n", "\u00a0no\u2009break\u3000spaces", "a\u0000b", "…—“quotes”", "trailing   ",
    "<|user|>\nHi<|stop|>\n", "<|begin|>twice", " <|end|> ", "almost <|end| >", "مرحبا", "अनुवाद",
]


def special(tokens):
    return [AddedToken(t, special=True, normalized=False) for t in tokens]


def byte_level():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_special_tokens(special(SPECIAL))
    begin = t.token_to_id("<|begin|>")
    t.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    return t


def pieces():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fallback = [f"<0x{i:02X}>" for i in range(256)]
    t.train_from_iterator(CORPUS[0].split(), trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<unk>", "<s>", "</s>"] + fallback, show_progress=False))
    # The trainer lists byte tokens as added tokens; in real vocabularies they are ordinary ones.
    state = json.loads(t.to_str())
    state["added_tokens"] = [a for a in state["added_tokens"] if not a["content"].startswith("<0x")]
    t = Tokenizer.from_str(json.dumps(state))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t


def write(name, tokenizer, config):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    golden = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        golden.append({
            "text": text,
            "ids": ids,
            "withBos": tokenizer.encode(text).ids,
            "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "plain": tokenizer.decode(ids, skip_special_tokens=True),
        })
    (folder / "golden.json").write_text("[\n" + ",\n".join(json.dumps(g) for g in golden) + "\n]\n")


write("bytes", byte_level(), {
    "bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": TEMPLATE, "clean_up_tokenization_spaces": True})
write("pieces", pieces(), {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
