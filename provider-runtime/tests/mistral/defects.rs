//! One test for each defect found in mistralrs 0.8.1 that would hurt here, by the number it was given: that it cannot be
//! seen through the engine.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lumbung_provider::engine::mistral::MistralEngine;
use lumbung_provider::engine::{Event, FinishReason};
use mistralrs::{CustomLogitsProcessor, Request, Tensor};
use serde_json::json;

use crate::support::{
    CONTEXT, PATIENCE, Question, ask, begin, endless, forced_logprobs, greedy, padi, prompt_ids, questions, read,
    read_tokens, refusal, request, submit_raw,
};

/// Until no more tokens are made; how many that were.
async fn tokens_until_quiet(engine: &MistralEngine) -> u64 {
    loop {
        let before = engine.generated_tokens();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if engine.generated_tokens() == before {
            return before;
        }
    }
}

#[tokio::test]
async fn defect_01_dropping_an_answer_stops_it_and_harms_no_neighbour() {
    let engine = padi(2).await;
    let neighbour = endless("What is SSE?", 200);
    let alone = ask(&engine, &neighbour).await.only();
    for stream in [true, false] {
        let before = engine.generated_tokens();
        let mut long = endless("What is an API key?", 1500);
        long["stream"] = json!(stream);
        let first = begin(&engine, &neighbour).await.unwrap();
        let mut dropped = begin(&engine, &long).await.unwrap();
        let last = begin(&engine, &neighbour).await.unwrap();
        read_tokens(&mut dropped, 5).await;
        drop(dropped);
        assert_eq!(read(first).await.only().ids, alone.ids);
        assert_eq!(read(last).await.only().ids, alone.ids);
        let made = tokens_until_quiet(&engine).await - before;
        assert!(made < 400 + 1000, "{made} tokens: the dropped answer went on");
    }

    // At once: what is made after the drop is the step under way.
    let mut dropped = begin(&engine, &endless("What is an API key?", 1500)).await.unwrap();
    read_tokens(&mut dropped, 50).await;
    drop(dropped);
    let at_drop = engine.generated_tokens();
    let later = tokens_until_quiet(&engine).await;
    assert!(later - at_drop <= 2, "{} tokens after the drop", later - at_drop);
}

#[tokio::test]
async fn defect_01_dropping_before_the_first_token_stops_it_too() {
    let engine = padi(1).await;
    let busy = begin(&engine, &endless("What is SSE?", 300)).await.unwrap();
    drop(begin(&engine, &endless("What is an API key?", 1500)).await.unwrap());
    assert_eq!(read(busy).await.only().count, 300);
    assert_eq!(tokens_until_quiet(&engine).await, 300, "the dropped job was never begun");

    // While the prompt is tokenized: mistralrs' thread must survive that nobody takes the ids.
    let long = endless(&"rice ".repeat(300), 1500);
    for _ in 0..20 {
        let begun = tokio::time::timeout(Duration::from_micros(50), begin(&engine, &long)).await;
        drop(begun);
    }
    assert_eq!(ask(&engine, &endless("What is SSE?", 10)).await.only().count, 10);
}

#[tokio::test]
async fn defect_02_a_reader_who_reads_nothing_stalls_nobody() {
    for slots in [1, 2] {
        let engine = padi(slots).await;
        let unread = begin(&engine, &endless("What is SSE?", 600)).await.unwrap();
        let other = tokio::time::timeout(PATIENCE, ask(&engine, &endless("What is an API key?", 50))).await;
        assert_eq!(other.expect("stalled").only().count, 50);
        assert_eq!(read(unread).await.only().count, 600, "and nothing of the unread answer is lost");
    }
}

#[tokio::test]
async fn defect_03_a_repeated_prompt_gives_the_same_logprobs() {
    let engine = padi(2).await;
    let long: String = questions().iter().map(|question| question.question.as_str()).take(90).collect();
    let asked = |question: &str| greedy(question, json!({"logprobs": true, "max_tokens": 30}));
    let first = ask(&engine, &asked(&long)).await;
    assert!(first.prompt_tokens[0] > 600, "{} tokens are no long prompt", first.prompt_tokens[0]);
    let first = first.only();
    for neighbour in ["What is SSE?", &long, &long[..long.len() / 2]] {
        let (a, b) = (begin(&engine, &asked(neighbour)).await.unwrap(), begin(&engine, &asked(&long)).await.unwrap());
        let (_, again) = tokio::join!(read(a), read(b));
        let again = again.only();
        assert_eq!(again.ids, first.ids);
        for (told, before) in again.logprobs.iter().zip(&first.logprobs) {
            assert!((told.logprob - before.logprob).abs() < 1e-4, "{} {}", told.logprob, before.logprob);
        }
    }
}

#[tokio::test]
async fn defect_04_a_tool_that_must_be_called_is_called() {
    let engine = padi(1).await;
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "strict": true}});
    let tools = json!([tool("f"), tool("g")]);
    let named = json!({"type": "function", "function": {"name": "g"}});
    for choice in [named, json!("required")] {
        let more = json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false});
        let answer = ask(&engine, &greedy("What is SSE?", more)).await.only();
        assert_eq!(answer.reason, Some(FinishReason::ToolCalls));
        let [(name, arguments)] = answer.calls.as_slice() else { panic!("{answer:?}") };
        assert!(choice == "required" || name == "g", "{name}");
        assert_eq!((arguments.as_str(), answer.text.as_str()), ("{}", ""));
    }
}

#[tokio::test]
async fn defect_05_an_answer_to_the_end_of_the_context_ends_with_length() {
    let engine = padi(1).await;
    let answer = ask(&engine, &endless("What is SSE?", 1_000_000)).await;
    let prompt = answer.prompt_tokens[0] as usize;
    let choice = answer.only();
    assert_eq!(choice.reason, Some(FinishReason::Length));
    assert_eq!(prompt + choice.count as usize, CONTEXT);

    // A prompt that leaves room for one token, and one that leaves none. Every digit is a token.
    let digits = |count: usize| "0".repeat(count);
    let template = prompt_ids(&engine, &digits(10)).await.len() - 10;
    let answer = ask(&engine, &endless(&digits(CONTEXT - template - 1), 10)).await;
    assert_eq!(answer.prompt_tokens, [CONTEXT as u32 - 1]);
    let choice = answer.only();
    assert_eq!((choice.count, choice.reason), (1, Some(FinishReason::Length)));
    for digits in [digits(CONTEXT - template), digits(CONTEXT * 2)] {
        let refusal = refusal(&engine, &endless(&digits, 10)).await;
        assert_eq!(refusal.code, Some("context_length_exceeded"));
    }
}

#[tokio::test]
async fn defect_06_logprobs_mean_something_at_temperature_zero() {
    let engine = padi(1).await;
    let asked = greedy("What is SSE?", json!({"logprobs": true, "top_logprobs": 20}));
    let answer = ask(&engine, &asked).await.only();
    let prompt = prompt_ids(&engine, "What is SSE?").await;
    let rows = forced_logprobs(&engine, [prompt.clone(), answer.ids.clone()].concat()).await;
    for (at, told) in answer.logprobs.iter().enumerate() {
        assert_eq!(told.top_logprobs.len(), 20, "alternatives are there");
        assert_eq!(told.top_logprobs[0].logprob, told.logprob, "greedy takes the likeliest");
        let sum: f32 = told.top_logprobs.iter().map(|top| top.logprob.exp()).sum();
        assert!((0.5..1.0001).contains(&sum), "natural logarithms, of which {sum} is the sum");
        let forced = rows[prompt.len() + at - 1][answer.ids[at] as usize];
        assert!((told.logprob - forced).abs() < 1e-3, "{} {forced}", told.logprob);
    }
}

#[tokio::test]
async fn defect_07_seed_and_logit_bias_are_per_request() {
    let engine = padi(2).await;
    let asked = |seed: i64, bias: i32| {
        request(
            "Tell me about rice.",
            json!({"temperature": 2, "seed": seed, "max_tokens": 30, "logit_bias": {"300": bias}}),
        )
    };
    let (one, two) = (begin(&engine, &asked(1, 0)).await.unwrap(), begin(&engine, &asked(2, 100)).await.unwrap());
    let (one, two) = tokio::join!(read(one), read(two));
    assert_eq!(one.only().ids, ask(&engine, &asked(1, 0)).await.only().ids);
    assert_eq!(two.only().ids, [300; 30]);
}

#[tokio::test]
async fn defect_08_every_choice_is_whole_and_counted() {
    for slots in [1, 3] {
        let engine = padi(slots).await;
        let before = engine.generated_tokens();
        let asked = json!({"temperature": 2, "seed": 9, "max_tokens": 30, "n": 5, "logprobs": true});
        let answer = ask(&engine, &request("Tell me about rice.", asked)).await;
        assert_eq!(answer.choices.len(), 5);
        let counted: u64 = answer.choices.iter().map(|choice| u64::from(choice.count)).sum();
        assert_eq!(engine.generated_tokens() - before, counted);
        for choice in &answer.choices {
            assert_eq!((choice.ids.len(), choice.logprobs.len()), (choice.count as usize, choice.count as usize));
            let bytes: Vec<u8> = choice.logprobs.iter().flat_map(|told| told.bytes.clone()).collect();
            assert_eq!(String::from_utf8_lossy(&bytes), choice.text);
        }
        let different: HashSet<&[u32]> = answer.choices.iter().map(|choice| choice.ids.as_slice()).collect();
        assert_eq!(different.len(), 5, "each choice has randomness of its own");
        // The first choice is the answer that n = 1 gives.
        let asked = json!({"temperature": 2, "seed": 9, "max_tokens": 30});
        let single = ask(&engine, &request("Tell me about rice.", asked)).await.only();
        assert_eq!(answer.choices[0].ids, single.ids);
    }
}

#[tokio::test]
async fn defect_09_nothing_is_shown_of_a_stop_sequence_or_after_it() {
    let engine = padi(1).await;
    // Every cut of some answers, so also in the middle of tokens and over several of them.
    for question in questions().into_iter().step_by(60) {
        let answer = &question.answer;
        let boundaries: Vec<usize> = answer.char_indices().map(|(at, _)| at).collect();
        for (number, &start) in boundaries.iter().enumerate().step_by(5) {
            let end = boundaries.get(number + 1 + number % 7).copied().unwrap_or(answer.len());
            let stop = &answer[start..end];
            let asked = greedy(&question.question, json!({"stop": ["not there", stop], "stream": number % 2 == 0}));
            let choice = ask(&engine, &asked).await.only();
            assert_eq!(choice.text, answer[..answer.find(stop).unwrap()], "stop {stop:?}");
            assert_eq!(choice.reason, Some(FinishReason::StopSequence(1)));
        }
    }
}

#[tokio::test]
async fn defect_10_an_answer_that_ends_inside_a_character_has_an_end() {
    let engine = padi(1).await;
    // In a byte-level vocabulary made by this project's trainer, the alphabet's bytes come after three control tokens.
    let tokenizer = std::fs::read(crate::support::bundled("padi/tokenizer.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_slice(&tokenizer).unwrap();
    // GPT-2's letter for the byte 0xE6, with which many three-byte characters begin.
    let lead = tokenizer["model"]["vocab"]["æ"].to_string();
    for (max_tokens, text) in [(1, "\u{FFFD}"), (3, "\u{FFFD}\u{FFFD}\u{FFFD}")] {
        let asked = greedy("What is SSE?", json!({"logit_bias": {&lead: 100}, "max_tokens": max_tokens}));
        let choice = ask(&engine, &asked).await.only();
        assert_eq!((choice.count, choice.reason), (max_tokens, Some(FinishReason::Length)));
        assert_eq!(choice.text, text);
    }
}

#[tokio::test]
async fn defect_11_temperature_is_heeded() {
    let engine = padi(1).await;
    let asked = |temperature: f32, seed: i64| {
        request("Tell me about rice.", json!({"temperature": temperature, "seed": seed, "max_tokens": 30}))
    };
    let (mut cold, mut hot) = (HashSet::new(), HashSet::new());
    for seed in 0..6 {
        cold.insert(ask(&engine, &asked(0.0, seed)).await.only().ids);
        hot.insert(ask(&engine, &asked(2.0, seed)).await.only().ids);
    }
    assert_eq!(cold.len(), 1);
    assert!(hot.len() >= 5, "{} different answers of 6", hot.len());
}

#[tokio::test]
async fn defect_12_with_one_slot_choices_come_one_after_another() {
    let one = padi(1).await;
    let mut asked = endless("What is SSE?", 40);
    asked["n"] = json!(4);
    let answer = ask(&one, &asked).await;
    assert!(!answer.overlapping);
    assert_eq!(answer.finished, [0, 1, 2, 3]);

    // Jobs too, in the order in which they came.
    let mut first = begin(&one, &endless("What is SSE?", 400)).await.unwrap();
    let mut second = begin(&one, &endless("What is an API key?", 5)).await.unwrap();
    assert!(
        matches!(second.events.recv().await, Some(Event::Prompt(_))),
        "the prompt is counted before a slot is free"
    );
    read_tokens(&mut second, 1).await;
    let mut ready = 0;
    while let Ok(event) = first.events.try_recv() {
        ready += usize::from(matches!(event, Event::Tokens(_)));
    }
    assert_eq!(ready, 400, "the second job's first token came before the first job was done");
}

/// A request that makes mistralrs' thread panic, a moment after it was begun.
async fn begin_panic(engine: &MistralEngine) -> tokio::sync::mpsc::Receiver<mistralrs::Response> {
    let processor: Arc<dyn CustomLogitsProcessor> = Arc::new(|_: &Tensor, _: &[u32]| -> mistralrs::Result<Tensor> {
        std::thread::sleep(Duration::from_millis(200));
        panic!("a panic on the engine's thread")
    });
    submit_raw(engine, vec![1, 10, 11], Some(processor)).await
}

#[tokio::test]
async fn defect_13_an_answer_survives_the_engines_thread() {
    let engine = padi(1).await;
    let asked = request(
        "Tell me about rice.",
        json!({"temperature": 1.5, "seed": 4, "max_tokens": 300, "stop": ["never said"], "frequency_penalty": 0.1,
               "logit_bias": {"2": -100, "0": -100}}),
    );
    let undisturbed = ask(&engine, &asked).await.only();

    // In the middle of an answer: the same answer goes on.
    let mut disturbed = begin(&engine, &asked).await.unwrap();
    read_tokens(&mut disturbed, 20).await;
    let made = engine.generated_tokens();
    engine.model().inner().get_sender(None).unwrap().send(Request::Terminate).await.unwrap();
    let (mut ids, mut reason) = (Vec::new(), None);
    while let Some(event) = tokio::time::timeout(PATIENCE, disturbed.events.recv()).await.unwrap() {
        match event {
            Event::Tokens(tokens) => ids.extend(tokens.ids),
            Event::Finish { reason: why, .. } => reason = Some(why),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ids.as_slice(), reason), (&undisturbed.ids[20..], Some(FinishReason::Length)));
    assert!(made < 300 + 250, "the thread had ended the answer before it was ended itself");
    assert_eq!(engine.generated_tokens(), 600, "no token was made twice");

    // While the request waits for the thread, and before it comes.
    let mut panicking = begin_panic(&engine).await;
    assert_eq!(ask(&engine, &asked).await.only().text, undisturbed.text);
    assert!(panicking.recv().await.is_none(), "the thread did not panic");
    let mut panicking = begin_panic(&engine).await;
    assert!(panicking.recv().await.is_none(), "the thread did not panic");
    assert_eq!(ask(&engine, &asked).await.only().text, undisturbed.text);
}

/// Found while these tests were written: in a batch on a CPU, attention gives every sequence the last one's.
#[tokio::test]
async fn defect_14_answers_at_once_are_each_computed_from_their_own_text() {
    let engine = padi(3).await;
    // One prompt a token longer than the other: one step apart, and then in one batch to the end if mistralrs may.
    let shorter = "Tell me about rice.";
    let length = prompt_ids(&engine, shorter).await.len();
    let mut longer = None;
    for Question { question, .. } in questions() {
        if prompt_ids(&engine, &question).await.len() == length + 1 {
            longer = Some(question);
            break;
        }
    }
    let questions = [shorter, &longer.expect("a question that is one token longer")];
    let asked = |at: usize| {
        let more = json!({"temperature": 1, "seed": at, "logprobs": true, "max_tokens": 40, "n": 2});
        request(questions[at], more)
    };
    let (one, other) = (begin(&engine, &asked(0)).await.unwrap(), begin(&engine, &asked(1)).await.unwrap());
    let (one, other) = tokio::join!(read(one), read(other));
    for (question, answer) in questions.iter().zip([one, other]) {
        let prompt = prompt_ids(&engine, question).await;
        for choice in answer.choices {
            let rows = forced_logprobs(&engine, [prompt.clone(), choice.ids.clone()].concat()).await;
            for (at, (id, told)) in choice.ids.iter().zip(&choice.logprobs).enumerate() {
                let forced = rows[prompt.len() + at - 1][*id as usize];
                assert!((told.logprob - forced).abs() < 1e-3, "{question} token {at}: {} {forced}", told.logprob);
            }
        }
    }
}
