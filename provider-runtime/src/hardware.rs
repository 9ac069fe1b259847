//! What this machine has, as Linux tells it. Where it does not, the answer is empty, never a guess.

use std::fs;
use std::path::Path;

/// What a machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Names of NVIDIA GPUs.
    pub gpus: Vec<String>,
    /// The CPU's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The CPU's instruction set extensions.
    pub cpu_features: Vec<String>,
    /// Memory in bytes, all of it.
    pub memory: u64,
    /// Memory in bytes that could be used now.
    pub memory_available: u64,
}

impl Hardware {
    /// Looks at this machine.
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let (allowed, taken) = cgroup(Path::new("/sys/fs/cgroup"));
        Self {
            gpus: nvidia_gpus(),
            cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_features: field(&cpuinfo, "flags")
                .or_else(|| field(&cpuinfo, "Features"))
                .map(|flags| flags.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            memory: kibibytes(&meminfo, "MemTotal").min(allowed),
            memory_available: kibibytes(&meminfo, "MemAvailable").min(allowed.saturating_sub(taken)),
        }
    }

    /// One line for the offer: the GPUs, or else the CPU.
    pub fn summary(&self) -> String {
        match (self.gpus.as_slice(), self.cpu.as_str()) {
            ([], "") => format!("{} CPU cores", self.cores),
            ([], cpu) => format!("{cpu}, {} cores", self.cores),
            ([gpu], _) => gpu.clone(),
            ([gpu, ..], _) => format!("{} × {gpu}", self.gpus.len()),
        }
    }
}

/// Memory in bytes that this process takes now; 0 where the system does not tell.
pub fn resident() -> u64 {
    kibibytes(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS")
}

/// The kernel driver lists its GPUs here, without a tool or a library being there.
fn nvidia_gpus() -> Vec<String> {
    let Ok(gpus) = fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
    gpus.flatten()
        .filter_map(|gpu| fs::read_to_string(gpu.path().join("information")).ok())
        .filter_map(|text| field(&text, "Model").map(str::to_owned))
        .collect()
}

/// Bytes that this container or service may have, and what it has by now (cgroup v2); as good as unlimited where nobody says.
fn cgroup(at: &Path) -> (u64, u64) {
    let number = |name: &str| fs::read_to_string(at.join(name)).ok()?.trim().parse::<u64>().ok();
    (number("memory.max").unwrap_or(u64::MAX), number("memory.current").unwrap_or(0))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kibibytes(text: &str, name: &str) -> u64 {
    let number = field(text, name).and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_linux_writes_them() {
        assert_eq!(field("processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\n", "model name"), Some("Some CPU @ 2.0GHz"));
        assert_eq!(field("Model: \t\t NVIDIA H100\nIRQ: 5\n", "Model"), Some("NVIDIA H100"));
        assert_eq!(kibibytes("MemTotal:       16384 kB\nMemAvailable: 10 kB\n", "MemAvailable"), 10_240);
        assert_eq!(kibibytes("", "MemTotal"), 0);
    }

    #[test]
    fn a_container_may_have_less_than_the_machine_has() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cgroup(dir.path()), (u64::MAX, 0));
        fs::write(dir.path().join("memory.max"), "max\n").unwrap();
        fs::write(dir.path().join("memory.current"), "4096\n").unwrap();
        assert_eq!(cgroup(dir.path()), (u64::MAX, 4096));
        fs::write(dir.path().join("memory.max"), "1073741824\n").unwrap();
        assert_eq!(cgroup(dir.path()), (1 << 30, 4096));
        assert!(resident() > 1 << 20);
    }

    #[test]
    fn a_summary_names_what_counts() {
        let mut hardware = Hardware { cpu: "Some CPU".into(), cores: 8, ..Default::default() };
        assert_eq!(hardware.summary(), "Some CPU, 8 cores");
        hardware.gpus = vec!["NVIDIA H100".into(); 2];
        assert_eq!(hardware.summary(), "2 × NVIDIA H100");
    }
}
