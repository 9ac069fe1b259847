//! A model with random weights, for what depends on its size and not on what it says: a Qwen3 in Hugging Face's layout, with
//! a tokenizer of bytes and words that were made up. Its answers never come to an end of their own.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

const HIDDEN: usize = 512;
const LAYERS: usize = 12;
const HEADS: usize = 8;
const KV_HEADS: usize = 4;
const HEAD: usize = 64;
const INNER: usize = 1536;
const VOCABULARY: usize = 32_768;
/// Prompt and answer together.
pub const CONTEXT: usize = 2048;

/// The first tokens. Their logits are 0, which is never the most of 32,768 random ones.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// One tensor.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    /// What its numbers' mean square is the square of; `None`: all of them are 1.
    spread: Option<f32>,
    /// So many rows are 0.
    zero_rows: usize,
}

/// Writes one into an empty folder, the same every time. Returns how many parameters it has.
pub fn write(folder: &Path) -> anyhow::Result<u64> {
    let put = |name: &str, value: &Value| fs::write(folder.join(name), value.to_string());
    put("config.json", &config())?;
    put("generation_config.json", &json!({ "eos_token_id": [2, 0], "pad_token_id": 0 }))?;
    put("tokenizer.json", &tokenizer())?;
    let special =
        json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": CONTROL[2], "pad_token": CONTROL[0] });
    let mut about = special;
    about["chat_template"] = json!(TEMPLATE);
    about["model_max_length"] = json!(CONTEXT);
    put("tokenizer_config.json", &about)?;
    write_weights(&folder.join("model.safetensors"))
}

fn tensors() -> Vec<Tensor> {
    let matrix = |name: String, rows: usize, columns: usize, gain: f32| Tensor {
        name,
        shape: vec![rows, columns],
        spread: Some(gain / (columns as f32).sqrt()),
        zero_rows: 0,
    };
    let ones = |name: String, length: usize| Tensor { name, shape: vec![length], spread: None, zero_rows: 0 };
    let mut tensors = vec![
        matrix("model.embed_tokens.weight".into(), VOCABULARY, HIDDEN, 4.0),
        ones("model.norm.weight".into(), HIDDEN),
        Tensor { zero_rows: CONTROL.len(), ..matrix("lm_head.weight".into(), VOCABULARY, HIDDEN, 3.0) },
    ];
    for layer in 0..LAYERS {
        let of = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.extend([
            matrix(of("self_attn.q_proj"), HEADS * HEAD, HIDDEN, 1.0),
            matrix(of("self_attn.k_proj"), KV_HEADS * HEAD, HIDDEN, 1.0),
            matrix(of("self_attn.v_proj"), KV_HEADS * HEAD, HIDDEN, 1.0),
            matrix(of("self_attn.o_proj"), HIDDEN, HEADS * HEAD, 1.0),
            matrix(of("mlp.gate_proj"), INNER, HIDDEN, 1.0),
            matrix(of("mlp.up_proj"), INNER, HIDDEN, 1.0),
            matrix(of("mlp.down_proj"), HIDDEN, INNER, 1.0),
            ones(of("self_attn.q_norm"), HEAD),
            ones(of("self_attn.k_norm"), HEAD),
            ones(of("input_layernorm"), HIDDEN),
            ones(of("post_attention_layernorm"), HIDDEN),
        ]);
    }
    tensors
}

/// In the safetensors format: the length of a JSON header, the header, the numbers.
fn write_weights(path: &Path) -> anyhow::Result<u64> {
    let tensors = tensors();
    let (mut header, mut at) = (Map::new(), 0);
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    for Tensor { name, shape, .. } in &tensors {
        let end = at + 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for tensor in &tensors {
        write_tensor(&mut file, tensor, &mut random)?;
    }
    file.flush()?;
    Ok(at as u64 / 4)
}

fn write_tensor(file: &mut impl Write, tensor: &Tensor, random: &mut Random) -> anyhow::Result<()> {
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let rows = tensor.shape.iter().product::<usize>() / columns;
    let mut row = Vec::with_capacity(4 * columns);
    for at in 0..rows {
        row.clear();
        for _ in 0..columns {
            let number: f32 = match tensor.spread {
                None => 1.0,
                Some(_) if at < tensor.zero_rows => 0.0,
                Some(spread) => random.next() * spread,
            };
            row.extend_from_slice(&number.to_le_bytes());
        }
        file.write_all(&row)?;
    }
    Ok(())
}

/// Numbers of mean 0 and mean square 1 (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        (bits as f32 / (1 << 23) as f32 - 1.0) * 3.0f32.sqrt()
    }
}

fn config() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
        "hidden_act": "silu", "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "vocab_size": VOCABULARY, "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 2,
        "torch_dtype": "float32", "use_cache": true, "attention_bias": false, "sliding_window": null,
        "use_sliding_window": false, "max_window_layers": LAYERS,
    })
}

/// GPT-2's letters for bytes, and words that no text is cut into, because nothing is merged.
fn tokenizer() -> Value {
    let mut vocabulary = Map::new();
    let names = CONTROL.iter().map(|name| (*name).to_owned()).chain(letters()).chain((0..).map(word));
    for (id, name) in names.take(VOCABULARY).enumerate() {
        vocabulary.insert(name, id.into());
    }
    let added = CONTROL.iter().enumerate().map(|(id, name)| {
        json!({ "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true })
    });
    let byte_level = |prefix: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": byte_level(false), "post_processor": null, "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

/// How GPT-2 writes bytes: what can be seen as itself, the others by letters from U+0100 on.
fn letters() -> impl Iterator<Item = String> {
    let is_seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100..;
    (0..=u8::MAX).map(move |byte| {
        let letter = if is_seen(byte) { Some(u32::from(byte)) } else { others.next() };
        letter.and_then(char::from_u32).unwrap_or_default().to_string()
    })
}

/// A space (`Ġ`) and four letters.
fn word(number: usize) -> String {
    let letter = |place: u32| char::from(b'a' + (number / 26usize.pow(place) % 26) as u8);
    ['Ġ', letter(3), letter(2), letter(1), letter(0)].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_a_name_of_its_own() {
        let tokenizer = tokenizer();
        let vocabulary = tokenizer["model"]["vocab"].as_object().expect("a vocabulary");
        assert_eq!(vocabulary.len(), VOCABULARY);
        assert_eq!((&vocabulary["Ġ"], &vocabulary["Ġaaaa"]), (&(3 + 32).into(), &(3 + 256).into()), "a space, a word");
    }

    #[test]
    fn random_numbers_have_the_spread_that_is_said() {
        let mut random = Random(1);
        let numbers: Vec<f64> = (0..100_000).map(|_| f64::from(random.next())).collect();
        let mean = |of: &dyn Fn(f64) -> f64| numbers.iter().map(|number| of(*number)).sum::<f64>() / 1e5;
        assert!(mean(&|number| number).abs() < 0.02 && (mean(&|number| number * number) - 1.0).abs() < 0.02);
    }

    #[test]
    fn there_are_more_than_sixty_million_parameters() {
        let parameters: usize = tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert!(parameters > 60_000_000, "{parameters}");
    }
}
