"""Writes what an engine loads: tokenizer, chat template, config, weights as F16 safetensors, and a Q4_0 GGUF of the same weights."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model import Shape

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, IM_START, IM_END = range(3)
# Qwen2's split, character for character what mistralrs uses for a GGUF, so that both models have one tokenizer. Every digit stands alone.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# ChatML. Tools come as a system message of their own. Content may be a string, a list of parts, or missing beside tool calls.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['tool_calls'] %}"
    "{% for t in m['tool_calls'] %}"
    "{{ '{\"name\":\"' }}{{ t['function']['name'] }}{{ '\",\"arguments\":' }}"
    "{% if t['function']['arguments'] is string %}{{ t['function']['arguments'] }}{% else %}{{ t['function']['arguments'] | tojson }}{% endif %}"
    "{{ '}' }}"
    "{% endfor %}"
    "{% elif m['content'] is string %}{{ m['content'] }}"
    "{% elif m['content'] %}{% for part in m['content'] %}{% if part['text'] %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """Byte-level BPE. It is trained on the ASCII part of the text only: every byte of é, 米 or 🌾 stays a token of its own, so that a
    stream can be cut inside a character, which is what real models do with rare characters and what tests want to see."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((t.encode("ascii", "ignore").decode() for t in texts), trainer)
    missing = size - tokenizer.get_vocab_size()
    tokenizer.add_tokens([AddedToken(f"<|reserved_{i}|>", special=True) for i in range(missing)])
    return tokenizer


def write_json(path: Path, value, **how) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, **how) + "\n", encoding="utf-8")


def write_folder(folder: Path, params: dict[str, np.ndarray], tokenizer: Tokenizer, shape: Shape) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(
        folder / "tokenizer_config.json",
        dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>", bos_token=None, pad_token="<|endoftext|>", unk_token=None,
             chat_template=TEMPLATE, model_max_length=shape.context, clean_up_tokenization_spaces=False),
        indent=1,
    )
    # No defaults for sampling on purpose: a request that names no temperature gets the API's default, not ours.
    write_json(folder / "generation_config.json", dict(eos_token_id=[IM_END, END_OF_TEXT], pad_token_id=END_OF_TEXT))
    write_json(
        folder / "config.json",
        dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_size=shape.hidden, intermediate_size=shape.inner,
             num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head,
             hidden_act="silu", max_position_embeddings=shape.context, rms_norm_eps=shape.eps, rope_theta=shape.theta, vocab_size=shape.vocab,
             tie_word_embeddings=True, bos_token_id=END_OF_TEXT, eos_token_id=IM_END, torch_dtype="float16", use_cache=True,
             attention_bias=False, attention_dropout=0.0, sliding_window=None, use_sliding_window=False, max_window_layers=shape.layers),
        indent=1,
    )
    halves = {name: np.asarray(value).astype(np.float16) for name, value in params.items()}
    save_file(halves, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 600, which a container's user could not read


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    name = name.removeprefix("model.").removesuffix(".weight")
    if name in ("embed_tokens", "norm"):
        return {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{GGUF_NAMES[rest]}.weight"


def write_q4(path: Path, folder: Path, tokenizer: Tokenizer, shape: Shape) -> dict[str, np.ndarray]:
    """Every matrix in Q4_0. Returns the weights that an engine will see, under their safetensors names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    described = json.loads(tokenizer.to_str())
    pieces = {i: piece for piece, i in described["model"]["vocab"].items()} | {a["id"]: a["content"] for a in described["added_tokens"]}
    special = {a["id"] for a in described["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    out = gguf.GGUFWriter(str(path), "qwen3")
    out.add_name("padi-q4")
    out.add_context_length(shape.context)
    out.add_embedding_length(shape.hidden)
    out.add_block_count(shape.layers)
    out.add_feed_forward_length(shape.inner)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_key_length(shape.head)
    out.add_value_length(shape.head)
    out.add_rope_freq_base(shape.theta)
    out.add_rope_dimension_count(shape.head)
    out.add_layer_norm_rms_eps(shape.eps)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    out.add_vocab_size(shape.vocab)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list([pieces[i] for i in range(shape.vocab)])
    out.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(shape.vocab)])
    out.add_token_merges(merges)
    out.add_bos_token_id(END_OF_TEXT)
    out.add_eos_token_id(IM_END)
    out.add_pad_token_id(END_OF_TEXT)
    out.add_add_bos_token(False)
    out.add_chat_template(TEMPLATE)
    kind, seen = gguf.GGMLQuantizationType.Q4_0, {}
    for name, value in load_file(folder / "model.safetensors").items():
        value = np.ascontiguousarray(value.astype(np.float32))
        if value.ndim == 2:
            packed = gguf.quants.quantize(value, kind)
            out.add_tensor(gguf_name(name), packed, raw_dtype=kind)
            value = gguf.quants.dequantize(packed, kind)
        else:
            out.add_tensor(gguf_name(name), value)
        seen[name] = value
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return seen
