//! A connection's small writes in one piece. hyper hands over the parts of a chunk as they lie, its size, its bytes and its end; for the
//! kernel to gather them is more work than to copy a few hundred bytes here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is put together, at most; more goes out as it lies, uncopied.
const MOST: usize = 2 << 10;

/// A connection that puts small writes together. Nothing is kept from one write to the next.
pub struct Flat<T>(pub T);

impl<T: AsyncWrite + Unpin> AsyncWrite for Flat<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut together = [0; MOST];
        match copy(parts, &mut together) {
            Some(bytes) => Pin::new(&mut self.0).poll_write(cx, bytes),
            None => Pin::new(&mut self.0).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Flat<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

/// The parts one after another, if they fit.
fn copy<'a>(parts: &[IoSlice<'_>], together: &'a mut [u8; MOST]) -> Option<&'a [u8]> {
    let mut length = 0;
    for part in parts {
        together.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    Some(&together[..length])
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Takes note of how it is written to.
    #[derive(Default)]
    struct Noting(Vec<(&'static str, usize)>);

    impl AsyncWrite for Noting {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(("whole", bytes.len()));
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let length = parts.iter().map(|part| part.len()).sum();
            self.0.push(("parts", length));
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_parts_are_put_together_and_large_ones_are_not_copied() {
        let mut flat = Flat(Noting::default());
        for lengths in [[3, 200, 2], [MOST - 2, 1, 1], [MOST - 1, 1, 1], [0, 0, 1 << 20]] {
            let bytes = lengths.map(|length| vec![b'x'; length]);
            let parts: Vec<IoSlice<'_>> = bytes.iter().map(|part| IoSlice::new(part)).collect();
            let written = flat.write_vectored(&parts).await.expect("written");
            assert_eq!(written, lengths.iter().sum::<usize>());
        }
        assert_eq!(flat.0.0, [("whole", 205), ("whole", MOST), ("parts", MOST + 1), ("parts", 1 << 20)]);
    }

    #[tokio::test]
    async fn what_is_written_arrives_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut near = Flat(TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected"));
        let (mut far, _) = listener.accept().await.expect("accepted");
        let parts = [&b"5\r\n"[..], b"padi\n", b"\r\n"].map(IoSlice::new);
        assert_eq!(near.write_vectored(&parts).await.expect("written"), 10);
        near.shutdown().await.expect("ended");
        let mut read = String::new();
        far.read_to_string(&mut read).await.expect("text");
        assert_eq!(read, "5\r\npadi\n\r\n");
    }
}
