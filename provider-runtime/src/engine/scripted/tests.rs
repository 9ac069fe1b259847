use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::plan::token_ends;
use super::*;
use crate::engine::{CallDelta, CallHead, Event, FinishReason, History};

/// Everything that a script's answer consists of.
async fn play(script: &str, body: &str, most: u32) -> Result<Vec<Event>, EngineError> {
    play_after(&[], script, body, most).await
}

async fn play_after(history: &[History], script: &str, body: &str, most: u32) -> Result<Vec<Event>, EngineError> {
    let engine = ScriptedEngine::parse(script).unwrap();
    let body = Bytes::copy_from_slice(body.as_bytes());
    let request = ChatRequest::parse(&body).unwrap();
    let job = Job { id: "job_1", request: &request, body: &body, max_completion_tokens: most, seed: 0, history };
    let mut generation = engine.generate(job).await?;
    let mut events = Vec::new();
    while let Some(event) = generation.events.recv().await {
        events.push(event);
    }
    Ok(events)
}

fn ask(more: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Say hello to the barn"}}]{more}}}"#)
}

fn tokens_of(events: &[Event], of: u8) -> (String, u32, Vec<u32>) {
    let (mut text, mut count, mut ids) = (String::new(), 0, Vec::new());
    for event in events {
        if let Event::Tokens(tokens) = event
            && tokens.choice == of
        {
            assert_eq!(tokens.ids.len(), tokens.count as usize);
            text.push_str(&tokens.text);
            count += tokens.count;
            ids.extend(&tokens.ids);
        }
    }
    (text, count, ids)
}

fn reasons(events: &[Event]) -> Vec<(u8, FinishReason)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Finish { choice, reason } => Some((*choice, *reason)),
            _ => None,
        })
        .collect()
}

#[test]
fn tokens_are_words_with_the_space_before_them() {
    let parts = |text: &str| {
        let mut from = 0;
        token_ends(text)
            .into_iter()
            .map(|end| text[std::mem::replace(&mut from, end)..end].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(parts("Hello there,\n  padi é"), ["Hello", " there,", "\n  padi", " é"]);
    assert_eq!(parts(" a "), [" a", " "]);
    assert_eq!(parts("  "), ["  "]);
    assert_eq!(parts(""), Vec::<String>::new());
}

#[tokio::test]
async fn the_first_rule_that_matches_answers() {
    let script = r#"[{"match":"goodbye","reply":"no"},{"match":"hello","reply":"Hello there, barn","prompt_tokens":12},{"match":"*","reply":"no"}]"#;
    let events = play(script, &ask(""), 100).await.unwrap();
    let Event::Prompt(prompt) = events[0] else { panic!("{:?}", events[0]) };
    assert_eq!(prompt, PromptCount { prompt_tokens: 12, cached_tokens: 0 });
    assert_eq!(tokens_of(&events, 0), ("Hello there, barn".into(), 3, vec![0, 1, 2]));
    assert_eq!(reasons(&events), [(0, FinishReason::Stop)]);
    let error = play(r#"[{"match":"goodbye","reply":"no"}]"#, &ask(""), 100).await;
    assert!(matches!(error, Err(EngineError::Failed(_))));
}

#[tokio::test]
async fn limits_choices_and_stops_are_honoured() {
    let script = r#"{"rules":[{"match":"*","reply":"one two three four five","tokens_per_event":2}]}"#;
    let events = play(script, &ask(r#","n":2"#), 3).await.unwrap();
    for choice in 0..2 {
        assert_eq!(tokens_of(&events, choice), ("one two three".into(), 3, vec![0, 1, 2]));
    }
    assert_eq!(reasons(&events), [(0, FinishReason::Length), (1, FinishReason::Length)]);

    let events = play(script, &ask(r#","stop":["four","ee f"]"#), 100).await.unwrap();
    assert_eq!(tokens_of(&events, 0), ("one two thr".into(), 4, vec![0, 1, 2, 3]));
    assert_eq!(reasons(&events), [(0, FinishReason::StopSequence(1))]);

    let events = play(r#"[{"match":"*","tokens":1000000}]"#, &ask(""), 50).await.unwrap();
    assert_eq!(tokens_of(&events, 0).0, " padi".repeat(50));
    assert_eq!(reasons(&events), [(0, FinishReason::Length)]);
}

#[tokio::test]
async fn delays_and_breaks_are_as_written() {
    let begun = Instant::now();
    let script = r#"[{"match":"*","tokens":10,"delay_ms_first":100,"delay_ms_per_token":20,"fail_after":4}]"#;
    let events = play(script, &ask(""), 100).await.unwrap();
    assert_eq!(tokens_of(&events, 0).1, 4);
    assert!(matches!(events.last(), Some(Event::Failed(EngineError::Failed(_)))));
    assert!(begun.elapsed() >= Duration::from_millis(160), "the fourth token comes 3 × 20 ms after the first");

    let question = ask("");
    let frozen = play(r#"[{"match":"*","tokens":10,"freeze_after":4}]"#, &question, 100);
    assert!(tokio::time::timeout(Duration::from_millis(200), frozen).await.is_err());
    let busy = play(r#"[{"match":"*","error":"busy"}]"#, &ask(""), 100).await;
    assert!(matches!(busy, Err(EngineError::Busy)));
    let long = play(r#"{"context_length":10,"rules":[{"match":"*","prompt_tokens":10}]}"#, &ask(""), 100).await;
    assert!(matches!(long, Err(EngineError::Invalid(_))));
}

#[tokio::test]
async fn reasoning_calls_and_log_probabilities_are_scripted_too() {
    let script = r#"[{"match":"*","reasoning":"let me see","reply":"I ask.","calls":[{"name":"f","arguments":"{\"a\": 1}"},{"name":"g","arguments":"{}"}]}]"#;
    let events = play(script, &ask(r#","logprobs":true,"top_logprobs":2"#), 100).await.unwrap();
    let (mut reasoning, mut thought, mut calls, mut logprobs) = (String::new(), 0, Vec::new(), 0);
    for event in &events {
        if let Event::Tokens(tokens) = event {
            reasoning += &tokens.reasoning;
            thought += tokens.reasoning_count;
            calls.extend(tokens.calls.clone());
            logprobs += tokens.logprobs.len();
            assert!(tokens.logprobs.iter().all(|told| told.top_logprobs.len() == 2 && told.logprob < 0.0));
        }
    }
    assert_eq!((reasoning.as_str(), thought), ("let me see", 3));
    let (text, count, _) = tokens_of(&events, 0);
    assert_eq!((text.as_str(), count, logprobs), ("I ask.", 8, 8));
    let call = |call, name: Option<&str>, arguments: &str| CallDelta {
        call,
        head: name.map(|name| CallHead { id: format!("call_job_1_0_{call}"), name: name.into() }),
        arguments: arguments.into(),
    };
    assert_eq!(calls, [call(0, Some("f"), "{\"a\":"), call(0, None, " 1}"), call(1, Some("g"), "{}")]);
    assert_eq!(reasons(&events), [(0, FinishReason::ToolCalls)]);

    let events = play(script, &ask(r#","stop":["see","ask"]"#), 100).await.unwrap();
    assert_eq!((tokens_of(&events, 0).0.as_str(), reasons(&events)), ("I ", vec![(0, FinishReason::StopSequence(1))]));
    let events = play(script, &ask(""), 6).await.unwrap();
    assert_eq!(reasons(&events), [(0, FinishReason::Length)]);
}

#[test]
fn a_script_with_a_mistake_is_refused() {
    for bad in [
        "",
        "{}",
        r#"[{"reply":"no match"}]"#,
        r#"[{"match":"*","replay":"x"}]"#,
        r#"[{"match":"*","tokens_per_event":0}]"#,
        r#"[{"match":"*","delay_ms_first":-1}]"#,
    ] {
        assert!(ScriptedEngine::parse(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn an_answer_that_another_began_is_repeated_and_goes_on() {
    let script = r#"[{"match":"*","reply":"one two three four five six","tokens_per_event":4}]"#;
    let body = ask(r#","n":2"#);
    let history = [3, 5].map(|tokens| History { ids: (0..tokens).collect(), finished: false });
    let events = play_after(&history, script, &body, 100).await.unwrap();
    let whole = play(script, &body, 100).await.unwrap();
    for choice in [0, 1] {
        assert_eq!(tokens_of(&events, choice), tokens_of(&whole, choice));
    }
    assert_eq!(reasons(&events), reasons(&whole));
    let ends: Vec<(u8, u32)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Tokens(tokens) => Some((tokens.choice, tokens.ids.last().unwrap() + 1)),
            _ => None,
        })
        .collect();
    assert!(ends.contains(&(0, 3)) && ends.contains(&(1, 5)), "what was delivered is told apart: {ends:?}");
    let another = [History { ids: vec![7], finished: false }];
    assert!(matches!(play_after(&another, script, &body, 100).await, Err(EngineError::Failed(_))));
}

#[tokio::test]
async fn prompts_are_repeated_and_counted_each_for_itself() {
    let engine = ScriptedEngine::parse(r#"[{"match":"*","reply":" yes"}]"#).unwrap();
    let body = Bytes::from_static(br#"{"model":"m","prompt":["one two",[7]],"n":2,"echo":true}"#);
    let request = ChatRequest::parse_completion(&body).unwrap();
    let job = Job { id: "job_1", request: &request, body: &body, max_completion_tokens: 8, seed: 0, history: &[] };
    let mut generation = engine.generate(job).await.unwrap();
    let (mut texts, mut finished, mut prompt) = (vec![String::new(); 4], 0, 0);
    while let Some(event) = generation.events.recv().await {
        match event {
            Event::Prompt(count) => prompt = count.prompt_tokens,
            Event::Tokens(tokens) => texts[usize::from(tokens.choice)] += &tokens.text,
            Event::Finish { .. } => finished += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(texts, ["one two yes", "one two yes", " 7 yes", " 7 yes"]);
    assert_eq!((finished, prompt), (4, 3));
}

#[tokio::test]
async fn vectors_depend_on_the_text_alone() {
    let engine = ScriptedEngine::parse(r#"{"embedding_dimensions":8}"#).unwrap();
    let ask = async |more: &str| {
        let body = Bytes::from(format!(r#"{{"model":"m","input":["a","b","a"]{more}}}"#));
        let request = ChatRequest::parse_embedding(&body).unwrap();
        let job = Job { id: "job_1", request: &request, body: &body, max_completion_tokens: 1, seed: 0, history: &[] };
        let mut generation = engine.generate(job).await.map_err(|error| error.to_string())?;
        let mut vectors = Vec::new();
        while let Some(event) = generation.events.recv().await {
            if let Event::Vector(vector) = event {
                vectors.push(vector);
            }
        }
        Ok::<_, String>(vectors)
    };
    let vectors = ask("").await.unwrap();
    assert_eq!((vectors.len(), vectors[0].len()), (3, 8));
    assert!(vectors[0] == vectors[2] && vectors[0] != vectors[1]);
    assert!((vectors[1].iter().map(|number| number * number).sum::<f32>() - 1.0).abs() < 1e-5);
    assert_eq!(ask(r#","dimensions":4"#).await.unwrap()[0].len(), 4);
    assert!(ask(r#","dimensions":9"#).await.unwrap_err().contains("dimensions"));
}
