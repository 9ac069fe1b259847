//! Telling systemd that this process serves (`sd_notify(3)`), where it wants to know: `NOTIFY_SOCKET`.

use std::io;
use std::os::unix::net::UnixDatagram;

/// Serving has begun. A successor says that it is the service's main process now.
pub fn ready(is_successor: bool) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let main = if is_successor { format!("\nMAINPID={}", std::process::id()) } else { String::new() };
    let sent = send(path.as_encoded_bytes(), &format!("READY=1{main}\n"));
    if let Err(error) = sent {
        tracing::warn!("systemd cannot be told that this provider serves: {error}");
    }
}

#[cfg(target_os = "linux")]
fn send(path: &[u8], text: &str) -> io::Result<()> {
    use std::ffi::OsStr;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;

    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn send(_path: &[u8], _text: &str) -> io::Result<()> {
    UnixDatagram::unbound().map(drop)
}
