//! What an image holds, as a root of its own: a program, its libraries, and nothing else.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::postgres::is_root;
use super::programs;

/// The repository's folder.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// What it prints; panics if it fails.
pub fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} ended with {status}: {stdout}{stderr}");
    stdout.into_owned()
}

/// The root of an image, as the Dockerfile makes it.
pub struct Image {
    pub role: &'static str,
    pub root: tempfile::TempDir,
}

impl Image {
    pub fn build(role: &'static str) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let script = repository().join("scripts/rootfs");
        said(Command::new(script).arg(role).arg(programs().join(format!("lumbung-{role}"))).arg(root.path()));
        said(Command::new("chmod").arg("755").arg(root.path()));
        Self { role, root }
    }

    /// The program in there, as the image's user.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("chroot");
                command.arg("--userspec=1000:1000");
                command
            }
            false => {
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-user=1000", "--map-group=1000", "--root"]);
                command
            }
        };
        command.arg(self.root.path()).arg(format!("/usr/local/bin/lumbung-{}", self.role)).args(arguments);
        // chroot is where only root's PATH looks.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// What an engine mounts and the programs read: how much memory is free.
    pub fn mount_proc(&self) {
        let proc = self.root.path().join("proc");
        std::fs::create_dir(&proc).expect("a folder");
        let memory = std::fs::read("/proc/meminfo").expect("how much memory there is");
        std::fs::write(proc.join("meminfo"), memory).expect("a file");
    }

    /// Every file and folder in it, but the model's.
    pub fn list(&self) -> Vec<String> {
        let mut find = Command::new("find");
        find.current_dir(self.root.path()).args([".", "-mindepth", "1", "-not", "-type", "d", "-printf", "%P\n"]);
        let mut found: Vec<String> = said(&mut find).lines().map(str::to_owned).collect();
        found.sort();
        found
    }
}
