//! A machine that can only dial out: a network namespace with one link, and nothing behind it but this machine's end.

use std::net::Ipv4Addr;
use std::process::Command;

/// A namespace; it ends with the test.
pub struct Namespace {
    name: String,
    /// This machine's end of the link.
    pub outside: Ipv4Addr,
    /// The namespace's own end.
    pub inside: Ipv4Addr,
}

impl Namespace {
    /// Makes one; only root can. `None` otherwise, and the test says so.
    pub fn new() -> Option<Self> {
        if !super::postgres::is_root() {
            eprintln!("not root: the provider runs beside the gateways, for a network namespace cannot be made");
            return None;
        }
        // A link of its own for each test process: 10.231.x.y/30.
        let link = std::process::id() % (1 << 14) * 4;
        let at = |end: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 231, 0, 0)) + link + end);
        let namespace = Self { name: format!("lb{}", std::process::id()), outside: at(1), inside: at(2) };
        let (name, ours, theirs) = (&namespace.name, format!("lbo{}", link / 4), format!("lbi{}", link / 4));
        ip(&format!("netns add {name}"));
        ip(&format!("link add {ours} type veth peer name {theirs}"));
        ip(&format!("link set {theirs} netns {name}"));
        ip(&format!("addr add {}/30 dev {ours}", namespace.outside));
        ip(&format!("link set {ours} up"));
        ip(&format!("-n {name} addr add {}/30 dev {theirs}", namespace.inside));
        ip(&format!("-n {name} link set {theirs} up"));
        ip(&format!("-n {name} link set lo up"));
        Some(namespace)
    }

    /// What runs a program inside.
    pub fn entrance(&self) -> [String; 4] {
        ["ip", "netns", "exec", &self.name].map(str::to_owned)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The link goes with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip runs (Debian: iproute2)");
    assert!(status.success(), "ip {arguments}");
}
