//! The engine asked past everything that this project puts around it.

use std::time::Duration;

use lumbung_provider::engine::mistral::Load;

use crate::support::padi;

#[tokio::test(flavor = "multi_thread")]
async fn mistralrs_alone_makes_tokens_at_some_pace() {
    let engine = padi(1).await;
    let (warm_up, length) = (Duration::from_millis(200), Duration::from_secs(1));
    let load = Load { streams: 2, prompt: "What is the capital of France?".into(), tokens: 32, warm_up, length };
    let pace = engine.pace_alone(&load).await.unwrap();
    assert_eq!(pace.streams, 2);
    assert!(pace.tokens_per_second > 1.0 && pace.first_token_ms > 0.0, "{pace:?}");
    assert_eq!(engine.generated_tokens(), 0, "none of them went through a choice of ours");
}
