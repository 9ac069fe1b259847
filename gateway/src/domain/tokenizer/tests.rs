use std::path::Path;

use serde::Deserialize;

use super::*;

pub(crate) fn padi() -> TokenizerFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../provider-runtime/models/padi");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file of the bundled model");
    let config: serde_json::Value = serde_json::from_str(&read("tokenizer_config.json")).expect("JSON");
    TokenizerFiles {
        tokenizer_json: read("tokenizer.json"),
        chat_template: config["chat_template"].as_str().expect("a template").to_owned(),
        special_tokens: SpecialTokens { eos: Some("<|im_end|>".into()), ..Default::default() },
    }
}

#[derive(Deserialize)]
struct Known {
    answer: String,
    tokens: u32,
}

fn said(content: &str, finish_reason: Option<&str>) -> Said {
    Said { content: content.into(), finish_reason: finish_reason.map(str::to_owned), ..Default::default() }
}

#[test]
fn the_bundled_models_answers_have_the_tokens_that_it_was_trained_to_make() {
    let tokenizer = ModelTokenizer::new(&padi()).expect("a tokenizer");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../provider-runtime/models/questions.json");
    let known: Vec<Known> = serde_json::from_str(&std::fs::read_to_string(path).expect("questions")).expect("JSON");
    assert!(known.len() > 100);
    for Known { answer, tokens } in known {
        assert_eq!(tokenizer.completion_tokens(&said(&answer, Some("stop")), &[]), Some(tokens), "{answer}");
        assert_eq!(tokenizer.completion_tokens(&said(&answer, Some("length")), &[]), Some(tokens - 1), "{answer}");
    }
}

#[test]
fn what_a_server_makes_and_does_not_show_is_its_due() {
    let tokenizer = ModelTokenizer::new(&padi()).expect("a tokenizer");
    let count = |said: &Said, stops: &[Cow<'_, str>]| tokenizer.completion_tokens(said, stops).expect("a count");
    let plain = count(&said("Rice is kept in a barn", None), &[]);
    assert_eq!(count(&said("Rice is kept in a barn", Some("stop")), &[]), plain + 1);
    let stop = [Cow::Borrowed(" for the whole village")];
    let whole = count(&said("Rice is kept in a barn for the whole village", None), &[]);
    assert_eq!(count(&said("Rice is kept in a barn", Some("stop")), &stop), whole);
    assert_eq!(count(&said("Rice is kept in a barn", Some("length")), &stop), plain, "a limit hides nothing");
    let reasoned = Said { reasoning: "Rice".into(), ..said("Rice is kept in a barn", None) };
    assert_eq!(count(&reasoned, &[]), plain + count(&said("Rice", None), &[]) + AROUND_REASONING as u32);
    assert_eq!(count(&Said::default(), &[]), 0);
}

#[test]
fn a_call_that_was_cut_off_before_its_name_is_its_makers_due() {
    let tokenizer = ModelTokenizer::new(&padi()).expect("a tokenizer");
    let count = |said: &Said| tokenizer.completion_tokens(said, &[]).expect("a count");
    let made = count(&said("<tool_call>\n{\"name\": \"harvest\", \"arguments\": ", None));
    for (text, reason) in [("", Some("length")), ("Rice", Some("length")), ("", None)] {
        let without = said(text, reason);
        let with = Said { callable: Some("harvest".into()), ..said(text, reason) };
        assert!(count(&with) >= count(&without) + made, "{text} {reason:?}: {made} tokens unseen");
    }
    for reason in ["stop", "tool_calls", "content_filter"] {
        let whole = Said { callable: Some("harvest".into()), ..said("Rice", Some(reason)) };
        assert_eq!(count(&whole), count(&said("Rice", Some(reason))), "what has ended has no call begun");
    }
}

#[test]
fn a_prompt_is_counted_with_its_template() {
    let tokenizer = ModelTokenizer::new(&padi()).expect("a tokenizer");
    let request =
        |content: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{content}"}}]}}"#).into_bytes();
    let count = |body: &[u8]| tokenizer.prompt_tokens(&ChatRequest::parse(body).expect("a request"), 0);
    let (empty, full) = (count(&request("")).expect("a count"), count(&request("What is NAT?")).expect("a count"));
    let text = tokenizer.completion_tokens(&said("What is NAT?", None), &[]).expect("a count");
    assert!(empty >= 5, "im_start, role, new line, twice, and im_end: {empty}");
    assert!(full > empty && full <= empty + text, "{full} of {empty} and {text}");
    let plain = ModelTokenizer::new(&TokenizerFiles { chat_template: String::new(), ..padi() }).expect("a tokenizer");
    assert_eq!(plain.prompt_tokens(&ChatRequest::parse(&request("x")).expect("a request"), 0), None);
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    let broken = |files: TokenizerFiles| ModelTokenizer::new(&files).err();
    let json = broken(TokenizerFiles { tokenizer_json: "{}".into(), ..padi() });
    assert!(matches!(json, Some(TokenizerError::Tokenizer(_))));
    let template = broken(TokenizerFiles { chat_template: "{% if %}".into(), ..padi() });
    assert!(matches!(template, Some(TokenizerError::Template(_))));
    let large = broken(TokenizerFiles { chat_template: " ".repeat(MAX_FILE + 1), ..padi() });
    assert!(matches!(large, Some(TokenizerError::TooLarge(_))));
    assert_ne!(padi().digest(), TokenizerFiles { chat_template: String::new(), ..padi() }.digest());
}
