//! From gateway to gateway: a job whose provider has dialled another replica goes there over HTTP/2, frames and all.
//!
//! Every replica keeps one connection to every other (`link`), and serves the others' (`listener`). Each connection begins
//! with a handshake under the network's own keys (`badge`): each end proves that it is the replica that the other means,
//! so that no prompt goes to whoever listens at that address now, and no job comes from a stranger. Then a job's stream is
//! joined to a stream on the provider's tunnel (`splice`). The ticket stays that of the replica that asks.

mod badge;
mod link;
mod listener;
mod splice;
pub mod tls;

use tokio::io::{AsyncRead, AsyncWrite};

pub use badge::Badge;
pub use link::Peer;
pub use listener::{Tunnels, serve};

/// The handshake, the first request on every connection.
const HELLO_PATH: &str = "/peer/v1/hello";
/// Request header that names the provider that a job is for.
const PROVIDER_HEADER: &str = "x-lumbung-provider";
/// Response header of what the other gateway itself says, and not the provider.
pub(super) const PEER_HEADER: &str = "x-lumbung-peer";
/// Jobs at a time on one connection.
const MAX_STREAMS: u32 = 4096;

/// A connection, with or without TLS.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
type BoxedIo = Box<dyn Io>;
