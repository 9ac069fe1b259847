//! Whether somebody else uses this machine, as far as Linux tells: what other processes take of its processors, by `/proc`,
//! and of its NVIDIA GPUs, by `nvidia-smi pmon`. What this process takes itself does not count.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::process::Command;

/// How often is looked.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many looks in a row must find others at work: opening a window is no use of the machine.
const BUSY_LOOKS: u32 = 5;
/// A GPU is looked at less often: that takes a process.
const GPU_EVERY: u32 = 5;
const GPU_WITHIN: Duration = Duration::from_secs(5);

/// What is found, look by look, and what is concluded from it.
#[derive(Debug)]
pub struct Idleness {
    /// Others use the machine when they take so much of its processors or of a GPU, in percent.
    threshold: u64,
    /// And they do until they have taken less for so long.
    calm_for: Duration,
    busy_looks: u32,
    calm_since: Option<Instant>,
    in_use: bool,
}

impl Idleness {
    /// The machine counts as in use until it has been calm for long enough.
    pub fn new(threshold: u64, calm_for: Duration) -> Self {
        Self { threshold, calm_for, busy_looks: 0, calm_since: None, in_use: true }
    }

    /// For a while nothing can be told.
    pub fn interrupt(&mut self) {
        (self.busy_looks, self.calm_since) = (0, None);
    }

    /// Others took so much, in percent. Returns whether the machine is in use.
    pub fn look(&mut self, others: u64, now: Instant) -> bool {
        match others >= self.threshold {
            true => {
                self.busy_looks = self.busy_looks.saturating_add(1);
                self.calm_since = None;
                self.in_use |= self.busy_looks >= BUSY_LOOKS;
            }
            false => {
                self.busy_looks = 0;
                let since = *self.calm_since.get_or_insert(now);
                self.in_use &= now.duration_since(since) < self.calm_for;
            }
        }
        self.in_use
    }
}

/// Looks at the machine.
pub struct Watch {
    proc: PathBuf,
    /// `None` where the next look is the first again.
    before: Option<Ticks>,
    looks: u32,
    processors: u64,
    gpu: u64,
    /// Why GPUs cannot be looked at was told.
    told: bool,
}

/// Processor time since the machine started, in the kernel's units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    all: u64,
    busy: u64,
    own: u64,
}

impl Watch {
    /// Begins to look. An error if there is no `/proc`.
    pub fn start(proc: PathBuf) -> anyhow::Result<Self> {
        let before = Some(read_ticks(&proc)?);
        Ok(Self { proc, before, looks: 0, processors: 0, gpu: 0, told: false })
    }

    /// What was seen up to now says nothing about what follows.
    pub fn forget(&mut self) {
        (self.before, self.processors, self.gpu, self.looks) = (None, 0, 0, 0);
    }

    /// What others took since the last look, in percent of all processors or of the busiest GPU, whichever is more. `None` at
    /// the first look.
    pub async fn look(&mut self) -> anyhow::Result<Option<u64>> {
        let now = read_ticks(&self.proc)?;
        let Some(before) = self.before else {
            self.before = Some(now);
            return Ok(None);
        };
        if let Some(others) = now.others_since(before) {
            (self.processors, self.before) = (others, Some(now));
        }
        if self.looks.is_multiple_of(GPU_EVERY) {
            self.gpu = self.look_at_gpus().await;
        }
        self.looks = self.looks.wrapping_add(1);
        Ok(Some(self.processors.max(self.gpu)))
    }

    async fn look_at_gpus(&mut self) -> u64 {
        let asked = Command::new("nvidia-smi").args(["pmon", "-c", "1", "-s", "u"]).kill_on_drop(true).output();
        let why = match tokio::time::timeout(GPU_WITHIN, asked).await {
            Ok(Ok(output)) if output.status.success() => {
                return others_on_gpus(&String::from_utf8_lossy(&output.stdout), std::process::id());
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return 0,
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!("whether others use the GPU cannot be told: nvidia-smi pmon: {why}");
        }
        0
    }
}

impl Ticks {
    /// In percent of all; `None` where no time has passed.
    fn others_since(self, before: Self) -> Option<u64> {
        let all = self.all.saturating_sub(before.all);
        let own = self.own.saturating_sub(before.own);
        let others = self.busy.saturating_sub(before.busy).saturating_sub(own);
        (others * 100).checked_div(all)
    }
}

fn read_ticks(proc: &Path) -> anyhow::Result<Ticks> {
    let read = |name: &str| {
        let path = proc.join(name);
        fs::read_to_string(&path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
    };
    let (machine, own) = (read("stat")?, read("self/stat")?);
    parse_ticks(&machine, &own).ok_or_else(|| anyhow::anyhow!("{} is not what Linux writes", proc.display()))
}

/// Of `proc_stat(5)`: the first line is `cpu user nice system idle iowait irq softirq steal …`. Of `proc_pid_stat(5)`, behind
/// the name in brackets: `utime`, `stime` and those of ended children are the 12th to 15th.
fn parse_ticks(machine: &str, own: &str) -> Option<Ticks> {
    let figures: Vec<u64> = machine
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|figure| figure.parse().ok())
        .collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = figures[..] else { return None };
    let busy = user + nice + system + irq + softirq + steal;
    let (_, own) = own.rsplit_once(')')?;
    let own = own.split_whitespace().skip(11).take(4).map(|figure| figure.parse::<u64>());
    let own: Vec<u64> = own.collect::<Result<_, _>>().ok()?;
    (own.len() == 4).then(|| Ticks { all: busy + idle + iowait, busy, own: own.iter().sum() })
}

/// Of `nvidia-smi pmon -s u`: a line for each process with GPU, process id, type, and the GPU's use by it in percent.
fn others_on_gpus(text: &str, own: u32) -> u64 {
    let mut by_gpu = std::collections::BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [gpu, pid, _, used, ..] = fields[..]
            && let (Ok(pid), Ok(used)) = (pid.parse::<u32>(), used.parse::<u64>())
            && pid != own
        {
            *by_gpu.entry(gpu).or_insert(0) += used;
        }
    }
    by_gpu.into_values().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_must_be_at_work_for_a_while_and_gone_for_longer() {
        let mut idleness = Idleness::new(25, Duration::from_secs(60));
        let begun = Instant::now();
        let at = |secs: u64| begun + Duration::from_secs(secs);
        assert!(idleness.look(0, at(0)) && idleness.look(0, at(59)), "not yet calm for long enough");
        assert!(!idleness.look(24, at(60)));
        assert!((61..65).all(|secs| !idleness.look(100, at(secs))), "a moment's work is no use");
        assert!(!idleness.look(0, at(65)));
        assert!((66..70).all(|secs| !idleness.look(25, at(secs))));
        assert!(idleness.look(25, at(70)), "five in a row");
        assert!(idleness.look(0, at(71)) && idleness.look(0, at(130)));
        assert!(idleness.look(30, at(130)) && idleness.look(0, at(131)), "one look begins the calm anew");
        assert!(idleness.look(0, at(190)) && !idleness.look(0, at(191)));
    }

    #[tokio::test]
    async fn what_was_seen_before_a_gap_says_nothing_after_it() {
        let proc = tempfile::tempdir().unwrap();
        let write = |busy: u64, idle: u64| {
            fs::write(proc.path().join("stat"), format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n")).unwrap();
        };
        fs::create_dir(proc.path().join("self")).unwrap();
        fs::write(proc.path().join("self/stat"), "1 (x) S 1 1 1 0 -1 1 0 0 0 0 0 0 0 0 20 0 1 0").unwrap();
        write(0, 0);
        let mut watch = Watch::start(proc.path().to_owned()).unwrap();
        write(90, 10);
        assert_eq!(watch.look().await.unwrap(), Some(90));
        assert_eq!(watch.look().await.unwrap(), Some(90), "no time has passed");
        watch.forget();
        write(990, 10);
        assert_eq!(watch.look().await.unwrap(), None, "the work of the gap is nobody's");
        write(990, 110);
        assert_eq!(watch.look().await.unwrap(), Some(0));

        let mut idleness = Idleness::new(25, Duration::from_secs(1));
        let now = Instant::now();
        assert!(idleness.look(0, now) && !idleness.look(0, now + Duration::from_secs(1)));
        for _ in 0..3 {
            assert!((0..4).all(|_| !idleness.look(100, now)), "never five in a row");
            idleness.interrupt();
        }
    }

    #[test]
    fn what_others_take_is_all_but_what_this_process_takes() {
        let own = "42 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 30 20 5 5 20 0 1 0";
        let before =
            parse_ticks("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3", "42 (a) S 1 1 1 0 -1 1 1 0 0 0 0 0 0 0 20")
                .unwrap();
        assert_eq!(before, Ticks { all: 1000, busy: 200, own: 0 });
        let after = parse_ticks("cpu  200 0 150 1300 100 0 0 50 0 0", own).unwrap();
        assert_eq!(after, Ticks { all: 1800, busy: 400, own: 60 });
        assert_eq!(after.others_since(before), Some(140 * 100 / 800));
        assert_eq!(before.others_since(before), None);
        assert_eq!(
            (parse_ticks("", own), parse_ticks("cpu  1 2 3", own), parse_ticks("cpu  1 2 3 4 5 6 7 8", "42")),
            (None, None, None)
        );
    }

    #[test]
    fn a_gpu_is_used_by_others_as_nvidia_smi_says() {
        let text = "# gpu         pid   type     sm    mem    enc    dec    jpg    ofa    command \n\
                    # Idx           #    C/G      %      %      %      %      %      %    name \n\
                    0       4711     C     90     12      -      -      -      -    lumbung-provider\n\
                    0       4712     G     15      3      -      -      -      -    Xorg           \n\
                    0       4713     C     20      3      -      -      -      -    game           \n\
                    1       4714   C+G      -      -      -      -      -      -    idle           \n\
                    1          -     -      -      -      -      -      -      -    -              \n";
        assert_eq!((others_on_gpus(text, 4711), others_on_gpus(text, 1), others_on_gpus("", 1)), (35, 125, 0));
    }
}
