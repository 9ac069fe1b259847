//! A connection of which the first bytes were read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What was read comes first, then the rest of it.
pub struct Begun<S> {
    head: Vec<u8>,
    /// How much of the head was handed on.
    taken: usize,
    rest: S,
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Reads until it is clear whether it begins with `preface`. Fails where it ends before.
    pub async fn read(mut rest: S, preface: &[u8]) -> io::Result<Self> {
        let mut head = Vec::with_capacity(preface.len());
        while head.len() < preface.len() && preface.starts_with(&head) {
            if (&mut rest).take((preface.len() - head.len()) as u64).read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Self { head, taken: 0, rest })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.head.len() - self.taken;
        if left == 0 {
            return Pin::new(&mut self.rest).poll_read(cx, buffer);
        }
        let length = left.min(buffer.remaining());
        buffer.put_slice(&self.head[self.taken..self.taken + length]);
        self.taken += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.rest.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What comes through when these pieces are sent one after the other.
    async fn through(pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
        let (mut near, far) = tokio::io::duplex(4);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let sending = tokio::spawn(async move {
            for piece in pieces {
                near.write_all(&piece).await?;
            }
            io::Result::Ok(())
        });
        let mut read = Vec::new();
        Begun::read(far, b"PRI * HTTP").await?.read_to_end(&mut read).await?;
        sending.await??;
        Ok(read)
    }

    #[tokio::test]
    async fn nothing_is_lost_however_it_comes() {
        for pieces in [
            &[&b"PRI * HTTP/2.0 and more"[..]][..],
            &[b"PRI", b" * HTTP", b"/2.0"],
            &[b"GET / HTTP/1.1"],
            &[b"P", b"OST / HTTP/1.1"],
        ] {
            assert_eq!(through(pieces).await.expect("text"), pieces.concat());
        }
        for cut in [&b""[..], b"PRI *"] {
            assert!(through(&[cut]).await.is_err(), "it ended before it was clear");
        }
    }
}
