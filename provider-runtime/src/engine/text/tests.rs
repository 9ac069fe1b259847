//! Every property is checked over random texts cut at random places.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

/// Few letters, so that stop sequences overlap and nearly match; some of several bytes with common first bytes.
const LETTERS: [char; 11] = ['a', 'b', 'c', 'é', 'ê', 'ñ', '漢', '字', '😀', '😁', ' '];

fn text(letters: Range<usize>) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&LETTERS[..]), letters).prop_map(String::from_iter)
}

/// `bytes` in pieces, cut wherever `cuts` say, also inside characters.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// What is shown of an answer, in the pieces in which it is shown, and whether it was stopped.
fn show(bytes: &[u8], cuts: &[usize], stops: &[String]) -> (Vec<String>, bool) {
    let (mut decoder, mut matcher) = (Utf8Decoder::default(), StopMatcher::new(stops.to_vec()));
    let mut shown = Vec::new();
    for piece in pieces(bytes, cuts) {
        match matcher.push(&decoder.push(piece)) {
            Matched::Open(text) => shown.push(text),
            Matched::Stopped(text) => {
                shown.push(text);
                return (shown, true);
            }
        }
    }
    match matcher.push(decoder.finish()) {
        Matched::Open(text) => shown.push(text + &matcher.finish()),
        Matched::Stopped(text) => {
            shown.push(text);
            return (shown, true);
        }
    }
    (shown, false)
}

/// The definition, without any streaming: grow the text by characters until it ends with a stop sequence.
fn cut_at_first_stop(text: &str, stops: &[String]) -> (String, bool) {
    let ends = text.char_indices().map(|(at, letter)| at + letter.len_utf8());
    for end in ends {
        let longest = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(String::len).max();
        if let Some(len) = longest {
            return (text[..end - len].to_owned(), true);
        }
    }
    (text.to_owned(), false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn stops_are_the_same_however_the_answer_is_cut(
        text in text(0..40),
        stops in prop::collection::vec(text(1..6), 0..4),
        cuts in prop::collection::vec(0usize..200, 0..40),
    ) {
        let (shown, stopped) = show(text.as_bytes(), &cuts, &stops);
        let (expected, should_stop) = cut_at_first_stop(&text, &stops);
        prop_assert_eq!((shown.concat(), stopped), (expected, should_stop));
    }

    #[test]
    fn no_stop_sequence_is_ever_shown(
        (before, stop, after) in (text(0..20), text(1..7), text(0..20)),
        cuts in prop::collection::vec(0usize..200, 0..40),
    ) {
        let whole = format!("{before}{stop}{after}");
        let (shown, stopped) = show(whole.as_bytes(), &cuts, std::slice::from_ref(&stop));
        prop_assert!(stopped);
        prop_assert!(!shown.concat().contains(&stop));
    }

    #[test]
    fn whatever_the_bytes_the_text_is_that_of_the_whole(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0xE0u8..=0xF4, 0x80u8..=0xBF, Just(b'a')], 0..40),
        cuts in prop::collection::vec(0usize..200, 0..40),
    ) {
        let (shown, stopped) = show(&bytes, &cuts, &[]);
        prop_assert!(!stopped);
        prop_assert_eq!(shown.concat(), String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_character_is_shown_when_its_last_byte_is_there() {
    let mut decoder = Utf8Decoder::default();
    let steps: Vec<String> = "é漢".bytes().map(|byte| decoder.push(&[byte])).collect();
    assert_eq!(steps, ["", "é", "", "", "漢"]);
    assert_eq!(decoder.finish(), "");
}

#[test]
fn a_character_cut_by_the_end_is_replaced_once() {
    let mut decoder = Utf8Decoder::default();
    assert_eq!(decoder.push(&[b'a', 0xF0, 0x9F, 0x98]), "a");
    assert_eq!(decoder.finish(), "\u{FFFD}");
    assert_eq!(decoder.finish(), "", "the decoder starts anew");
}

#[test]
fn only_what_may_become_a_stop_sequence_waits() {
    let mut matcher = StopMatcher::new(["END".to_owned()]);
    assert_eq!(matcher.push("one E"), Matched::Open("one ".into()));
    assert_eq!(matcher.push("N"), Matched::Open(String::new()));
    assert_eq!(matcher.push("T EN"), Matched::Open("ENT ".into()));
    assert_eq!(matcher.push("D two"), Matched::Stopped(String::new()));
}
