//! Challenges of joins: one answer each, over all gateways.

use std::time::Duration;

use crate::on_both;

fn in_a_minute() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_secs() + 60
}

on_both! {
    async fn a_challenge_is_answered_once_and_forgotten_when_nobody_can_answer_it(books: &Books) {
        let mut answering = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = books.store.clone();
            answering.spawn(async move { store.answer_challenge("nonce", in_a_minute()).await.expect("an answer") });
        }
        let accepted = answering.join_all().await.into_iter().filter(|accepted| *accepted).count();
        assert_eq!(accepted, 1, "of eight at once");
        assert!(books.store.answer_challenge("another", in_a_minute()).await.expect("an answer"));

        assert_eq!(books.store.forget_challenges().await.expect("an answer"), 0);
        assert!(!books.store.answer_challenge("nonce", in_a_minute()).await.expect("an answer"));
        books.store.shift_clock(Duration::from_secs(60 + 600 + 1));
        assert_eq!(books.store.forget_challenges().await.expect("an answer"), 2);
    }
}
