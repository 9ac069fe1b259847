//! Real proxies in front of gateways, with the configurations that this repository recommends (`gateway/deploy`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::{Process, wait_until};

pub const HAPROXY: &str = include_str!("../../../deploy/haproxy.cfg");
pub const NGINX: &str = include_str!("../../../deploy/nginx.conf");
/// The gateways that both configurations name.
const EXAMPLES: [&str; 3] = ["10.0.0.11:8080", "10.0.0.12:8080", "10.0.0.13:8080"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Haproxy,
    Nginx,
}

/// A running proxy.
pub struct Proxy {
    pub base: String,
    process: Process,
    _folder: tempfile::TempDir,
}

/// A certificate for one address and the authority that vouches for it, as files.
pub struct Certificate {
    folder: tempfile::TempDir,
}

impl Certificate {
    pub fn for_address(ip: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let openssl = |name: &str, key: &str, more: &[&str]| {
            let mut openssl = Command::new("openssl");
            openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
            openssl.args(["-days", "2", "-keyout", key, "-out", name]).args(more);
            let made = openssl.current_dir(folder.path()).stderr(Stdio::null()).status().expect("openssl runs");
            assert!(made.success(), "openssl makes {name}");
        };
        openssl("authority.pem", "authority-key.pem", &["-subj", "/CN=lumbung test authority"]);
        let alternative = format!("subjectAltName=IP:{ip}");
        let leaf = ["-subj", "/CN=lumbung test", "-CA", "authority.pem", "-CAkey", "authority-key.pem"];
        let extensions = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", &alternative];
        openssl("cert.pem", "key.pem", &[&leaf[..], &extensions[..]].concat());
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("a file");
        std::fs::write(folder.path().join("both.pem"), read("cert.pem") + &read("key.pem")).expect("a file");
        Self { folder }
    }

    /// A certificate of the same authority that is not good for `address`: with another extension, or over already (a day
    /// ago); its key is `key.pem` still.
    pub fn another(&self, name: &str, alternative: &str, days: i32) -> PathBuf {
        let openssl = |arguments: &[&str]| {
            let made =
                Command::new("openssl").args(arguments).current_dir(self.folder.path()).stderr(Stdio::null()).status();
            assert!(made.expect("openssl runs").success(), "openssl {arguments:?}");
        };
        let extensions = format!("subjectAltName={alternative}\nbasicConstraints=critical,CA:FALSE\n");
        std::fs::write(self.path("extensions"), extensions).expect("a file");
        openssl(&["req", "-new", "-key", "key.pem", "-subj", "/CN=lumbung test", "-out", "request"]);
        let authority = ["-CA", "authority.pem", "-CAkey", "authority-key.pem", "-CAcreateserial"];
        let days = days.to_string();
        let made = ["x509", "-req", "-in", "request", "-extfile", "extensions", "-days", &days, "-out", name];
        openssl(&[&made[..], &authority[..]].concat());
        self.path(name)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Proxy {
    /// Listens at `address` (`ip:port`), with TLS where there is a certificate, for gateways at these addresses.
    pub async fn start(kind: Kind, address: &str, gateways: &[&str], certificate: Option<&Certificate>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = match kind {
            Kind::Haproxy => haproxy(folder.path(), address, gateways, certificate),
            Kind::Nginx => nginx(folder.path(), address, gateways, certificate),
        };
        command.current_dir(folder.path());
        let name = if kind == Kind::Haproxy { "haproxy" } else { "nginx" };
        let process = Process::start(name, command, Some(folder.path().join("proxy.log")));
        let base = format!("{}://{address}", if certificate.is_some() { "https" } else { "http" });
        wait_until(&format!("{name} listens"), Duration::from_secs(10), async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self { base, process, _folder: folder }
    }
}

impl Drop for Proxy {
    /// In order: nginx's workers outlive a master that is killed.
    fn drop(&mut self) {
        self.process.signal("TERM");
        for _ in 0..100 {
            if self.process.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The text with one part replaced, which must be there.
pub fn replace(text: &str, part: &str, by: &str) -> String {
    assert!(text.contains(part), "the configuration has no '{part}' any more");
    text.replace(part, by)
}

/// The text with these gateways for the example's.
pub fn with_gateways(text: &str, gateways: &[&str]) -> String {
    let mut text =
        EXAMPLES.iter().zip(gateways).fold(text.to_owned(), |text, (example, given)| replace(&text, example, given));
    for unused in EXAMPLES.iter().skip(gateways.len()) {
        text = text.lines().filter(|line| !line.contains(unused)).map(|line| format!("{line}\n")).collect();
    }
    text
}

fn haproxy(folder: &Path, address: &str, gateways: &[&str], certificate: Option<&Certificate>) -> Command {
    let tls = certificate.map(|files| format!(" ssl crt {} alpn h2,http/1.1", files.path("both.pem").display()));
    let bind = format!("bind {address}{}", tls.unwrap_or_default());
    let text = replace(HAPROXY, "bind :443 ssl crt /etc/haproxy/api.example.pem alpn h2,http/1.1", &bind);
    let text = replace(&text, "maxconn 40000", "maxconn 2000"); // as many files as a test may open
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, with_gateways(&text, gateways)).expect("a configuration");
    let mut command = Command::new(program("haproxy"));
    command.arg("-db").arg("-f").arg(path);
    command
}

fn nginx(folder: &Path, address: &str, gateways: &[&str], certificate: Option<&Certificate>) -> Command {
    let here = |name: &str| folder.join(name).display().to_string();
    let mut text = with_gateways(NGINX, gateways);
    let listen =
        if certificate.is_some() { format!("listen {address} ssl http2;") } else { format!("listen {address};") };
    text = replace(&text, "listen 443 ssl http2;", &listen);
    for (name, example) in [("cert.pem", "fullchain.pem"), ("key.pem", "privkey.pem")] {
        let example = format!("/etc/letsencrypt/live/api.example/{example}");
        match certificate {
            Some(files) => text = replace(&text, &example, &files.path(name).display().to_string()),
            None => {
                text = text.lines().filter(|line| !line.contains(&example)).map(|line| format!("{line}\n")).collect()
            }
        }
    }
    text = replace(&text, "worker_rlimit_nofile 65536;", "");
    text = replace(&text, "worker_connections 16384;", "worker_connections 2048;");
    text = replace(&text, "worker_processes auto;", "worker_processes 2;");
    text = replace(&text, "/var/log/nginx/error.log", &here("error.log"));
    text = replace(&text, "/run/nginx.pid", &here("nginx.pid"));
    // Its folders for temporary files, which belong to root.
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.iter().map(|name| format!("  {name}_temp_path {};\n", here(name))).collect();
    text = replace(&text, "http {\n", &format!("http {{\n{temporary}"));
    let path = folder.join("nginx.conf");
    std::fs::write(&path, text).expect("a configuration");
    let mut command = Command::new(program("nginx"));
    // Its workers are this test's user, who owns the folder.
    let user = if super::postgres::is_root() { "user root; " } else { "" };
    command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(path).arg("-g").arg(format!("{user}daemon off;"));
    command
}

/// Debian has them where only root's PATH looks.
pub fn program(name: &str) -> PathBuf {
    let found =
        ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"].map(|folder| Path::new(folder).join(name));
    let found = found.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: scripts/setup test"))
}
