//! `lumbung-gateway health`: what a container's or a supervisor's health check runs where there is no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::tls;

/// A gateway that takes longer is not well.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The answer is one line with a few headers.
const MOST_BYTES: u64 = 4096;

/// Asks the gateway that listens there, over TLS if it is one that ends TLS. An error says why it is not ready, or not alive.
pub async fn ask(listen: SocketAddr, tls: bool, live: bool) -> anyhow::Result<String> {
    let path = if live { "/health/live" } else { "/health/ready" };
    let answer = tokio::time::timeout(ANSWER_WITHIN, get(reachable(listen), tls, path)).await;
    let answer = answer.context("no answer in time")?.with_context(|| format!("no answer at {listen}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.trim().to_owned()),
        _ => bail!("{}", body.trim()),
    }
}

async fn get(address: SocketAddr, tls: bool, path: &str) -> std::io::Result<String> {
    let socket = TcpStream::connect(address).await?;
    match tls {
        true => {
            let connector = tls::to_anyone().map_err(std::io::Error::other)?;
            say(connector.connect(address.ip().into(), socket).await?, address, path).await
        }
        false => say(socket, address, path).await,
    }
}

async fn say(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    path: &str,
) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.take(MOST_BYTES).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Who listens at every address is asked at loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
