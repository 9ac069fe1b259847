//! A gateway and a provider process to test one with the other: real TCP, a real upgrade, real HTTP/2.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod gateway;
pub mod provider;
pub mod tunnel;
pub mod upstream;

use std::time::Duration;

/// Waits until `check` gives something, for ten seconds at most.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = check().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within ten seconds: {what}");
}
