use proptest::prelude::*;

use super::*;

const THINK: Tags = Tags { open: "<think>", close: "</think>" };
const TAGGED: CallStyle = CallStyle::Tagged(Tags { open: "<tool_call>", close: "</tool_call>" });
const BARE: CallStyle = CallStyle::Bare("arguments");

fn ids() -> CallIds {
    CallIds { job: "job_1".into(), choice: 0, short: false }
}

fn reader(place: Place, style: Option<CallStyle>, stops: &[&str]) -> Reader {
    let reasoning = (place != Place::Answer).then_some(THINK);
    Reader::new(place, reasoning, style, stops.iter().map(|stop| (*stop).to_owned()).collect(), ids())
}

/// Everything that pieces of text come to, the calls as name and arguments.
fn read(mut reader: Reader, pieces: &[&str]) -> (String, String, Vec<(String, String)>, bool) {
    let mut all = Parts::default();
    for piece in pieces {
        let mut parts = reader.push(piece);
        while parts.begun.take().is_some() {
            reader.decide(true, &mut parts);
        }
        add(&mut all, parts);
        if all.stopped {
            break;
        }
    }
    if !all.stopped {
        add(&mut all, reader.finish());
    }
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in all.calls {
        if let Some(head) = delta.head {
            assert_eq!((calls.len() as u32, head.id.len()), (delta.call, 29));
            calls.push((head.name, String::new()));
        }
        calls[delta.call as usize].1 += &delta.arguments;
    }
    (all.reasoning, all.text, calls, all.stopped)
}

fn add(all: &mut Parts, parts: Parts) {
    all.reasoning += &parts.reasoning;
    all.text += &parts.text;
    all.calls.extend(parts.calls);
    all.stopped |= parts.stopped;
}

/// The same, whole and cut everywhere.
fn check(place: Place, style: Option<CallStyle>, stops: &[&str], text: &str, expected: (&str, &str, &[(&str, &str)])) {
    let calls: Vec<(String, String)> =
        expected.2.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect();
    let letters: Vec<String> = text.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    for pieces in [vec![text], letters] {
        let (reasoning, shown, called, _) = read(reader(place, style, stops), &pieces);
        assert_eq!((reasoning.as_str(), shown.as_str(), &called), (expected.0, expected.1, &calls), "{text:?}");
    }
}

#[test]
fn reasoning_is_told_from_the_answer() {
    check(
        Place::Start,
        None,
        &[],
        "<think>\nRice?\n\nYes.\n</think>\n\nIt is rice.\n",
        ("Rice?\n\nYes.", "It is rice.\n", &[]),
    );
    check(Place::Start, None, &[], "\n<think>a</think>b", ("a", "b", &[]));
    check(Place::Reasoning, None, &[], "\nso </thin </think>b", ("so </thin", "b", &[]));
    check(Place::Reasoning, None, &[], "cut off ", ("cut off", "", &[]));
    check(Place::Start, None, &[], "<thin ice", ("", "<thin ice", &[]));
    check(Place::Start, None, &[], "<thi", ("", "<thi", &[]));
    check(Place::Answer, None, &[], "<think>a</think>", ("", "<think>a</think>", &[]));
}

#[test]
fn a_stop_sequence_ends_the_answer_and_not_the_reasoning() {
    check(Place::Start, None, &["STOP"], "<think>STOP</think>one STOP two", ("STOP", "one ", &[]));
    check(Place::Answer, None, &["STOP"], "one STO", ("", "one STO", &[]));
}

#[test]
fn tagged_calls_are_read_one_after_another() {
    let text = "Let me see.\n<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": \"}\\\"{\", \"b\": [1, {}]}}\n</tool_call>\n\
                <tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>";
    let calls = [("get", "{\"a\": \"}\\\"{\", \"b\": [1, {}]}"), ("now", "{}")];
    check(Place::Answer, Some(TAGGED), &[], text, ("", "Let me see.\n", &calls));
    check(Place::Answer, Some(TAGGED), &[], "a <tool_cal", ("", "a <tool_cal", &[]));
    let thought = "<think>hm</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    check(Place::Start, Some(TAGGED), &[], thought, ("hm", "", &[("now", "{}")]));
    let cut = "<tool_call>{\"name\": \"get\", \"arguments\": {\"a\": \"x";
    check(Place::Answer, Some(TAGGED), &[], cut, ("", "", &[("get", "{\"a\": \"x")]));
}

#[test]
fn lists_and_bare_calls_are_read_too() {
    let list = "[TOOL_CALLS] [{\"name\": \"a\", \"arguments\": {\"x\": 1}}, {\"name\": \"b\", \"arguments\": {}}]";
    check(
        Place::Answer,
        Some(CallStyle::List("[TOOL_CALLS]")),
        &[],
        list,
        ("", "", &[("a", "{\"x\": 1}"), ("b", "{}")]),
    );
    let bare = "{\"name\":\"a\",\"arguments\":{\"x\":1}}{\"name\":\"b\",\"arguments\":{}}";
    check(Place::Answer, Some(BARE), &[], bare, ("", "", &[("a", "{\"x\":1}"), ("b", "{}")]));
    check(Place::Answer, Some(BARE), &[], "{\"nam\": 1}", ("", "{\"nam\": 1}", &[]));
    check(Place::Answer, Some(BARE), &[], "It is {\"name\"", ("", "It is {\"name\"", &[]));
}

#[test]
fn what_only_looks_like_calls_is_text() {
    let mut reader = reader(Place::Answer, Some(TAGGED), &[]);
    let mut parts = reader.push("see <tool_call>not so");
    assert_eq!(parts.begun.take(), Some((Begun::Calls, "not so".into())));
    reader.decide(false, &mut parts);
    assert_eq!((parts.text.as_str(), reader.place()), ("see <tool_call>not so", Place::Answer));
    assert_eq!(reader.push(" <tool_call> more").text, " <tool_call> more");
}

proptest! {
    #[test]
    fn a_cut_changes_nothing(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "<think>", "</think>", "<tool_call>", "</tool_call>", "{\"name\": \"f\", \"arguments\": {\"a\": 1}}", " ", "\n", "STOP", "ST", "rice é ", "<",
        ]), 0..10),
        cuts in proptest::collection::vec(1..9usize, 1..6),
        place in proptest::sample::select(vec![Place::Start, Place::Reasoning, Place::Answer]),
        style in proptest::sample::select(vec![None, Some(TAGGED), Some(BARE)]),
    ) {
        let text = words.concat();
        // Only what a grammar would allow follows a call's tag.
        prop_assume!(style.is_none() || !text.contains("<tool_call>"));
        let letters: Vec<char> = text.chars().collect();
        let (mut pieces, mut at) = (Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            if at >= letters.len() { break }
            let end = (at + cut).min(letters.len());
            pieces.push(letters[at..end].iter().collect::<String>());
            at = end;
        }
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let whole = read(reader(place, style, &["STOP"]), &[&text]);
        prop_assert_eq!(read(reader(place, style, &["STOP"]), &pieces), whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn not_a_byte_of_a_stop_sequence_is_shown(
        text in "[ab é<{\"]{1,40}",
        at in any::<proptest::sample::Index>(),
        length in 1..6usize,
        decoy in "[ab]{1,4}z",
        cuts in proptest::collection::vec(1..7usize, 1..5),
        style in proptest::sample::select(vec![None, Some(TAGGED), Some(BARE)]),
    ) {
        let letters: Vec<char> = text.chars().collect();
        let start = at.index(letters.len());
        let stop: String = letters[start..].iter().take(length).collect();
        let (mut pieces, mut from) = (Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            if from >= letters.len() { break }
            let to = (from + cut).min(letters.len());
            pieces.push(letters[from..to].iter().collect::<String>());
            from = to;
        }
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let (_, shown, _, stopped) = read(reader(Place::Answer, style, &[&stop, &decoy]), &pieces);
        prop_assert_eq!((shown.as_str(), stopped), (&text[..first_end(&text, &stop)], true));
    }
}

/// Where the stop sequence begins whose end comes first.
fn first_end(text: &str, stop: &str) -> usize {
    text.find(stop).unwrap_or(text.len())
}
