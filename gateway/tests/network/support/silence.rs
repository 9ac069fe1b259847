//! Connections on which little or nothing is said.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The gateway closes them without an answer. Half a head may take as long as a pause between requests, so that one is waited
/// for with `LUMBUNG_TEST_FULL` only.
pub async fn silence_is_ended<IO: AsyncRead + AsyncWrite + Unpin>(connect: impl AsyncFn() -> IO) {
    let end_of = async |said: &str, within: u64| {
        let mut silent = connect().await;
        silent.write_all(said.as_bytes()).await.expect("sent");
        tokio::time::timeout(Duration::from_secs(within), silent.read(&mut [0; 64])).await.expect("it ends")
    };
    let is_end = |end: std::io::Result<usize>| end.is_err() || end.is_ok_and(|length| length == 0);
    let (nothing, beginning) = tokio::join!(end_of("", 40), end_of("PRI * HTTP/2", 40));
    assert!(is_end(nothing), "nothing: an answer");
    assert!(is_end(beginning), "the beginning of HTTP/2: an answer");
    if std::env::var_os("LUMBUNG_TEST_FULL").is_some() {
        assert!(is_end(end_of("POST /v1/chat", 100).await), "half a head: an answer");
    }
}
