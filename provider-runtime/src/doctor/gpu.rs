//! NVIDIA GPUs: what the driver and its tools say, what is wrong where they say something else, and whether a model fits.

use std::path::Path;
use std::process::Command;

use super::{Finding, exists, size};
use crate::hardware::Hardware;

/// The first driver that CUDA 12 runs on (NVIDIA, "CUDA Compatibility": minor version compatibility).
const OLDEST_DRIVER: u32 = 525;
/// The first generation whose kernels are built (Volta), as major and minor.
const OLDEST_COMPUTE: (u32, u32) = (7, 0);
/// What is asked of nvidia-smi, in this order.
const QUERY: &str = "--query-gpu=name,memory.total,memory.free,driver_version,compute_cap";

/// What `nvidia-smi` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// There is no such program.
    NotInstalled,
    /// It failed, in its words.
    Failed(String),
    /// GPUs.
    Gpus(Vec<Gpu>),
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    name: String,
    /// Bytes.
    total: u64,
    /// Bytes.
    free: u64,
    driver: String,
    compute: String,
}

impl Told {
    /// Asks it.
    pub fn ask() -> Self {
        let asked = Command::new("nvidia-smi").args([QUERY, "--format=csv,noheader,nounits"]).output();
        match asked {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::NotInstalled,
            Err(error) => Self::Failed(error.to_string()),
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                match output.status.success() {
                    true => parse(&said).map_or_else(|| Self::Failed(said.trim().to_owned()), Self::Gpus),
                    false => Self::Failed(said.trim().to_owned()),
                }
            }
        }
    }
}

/// A line for each GPU. `None` where one is not what was asked for.
fn parse(said: &str) -> Option<Vec<Gpu>> {
    said.lines().filter(|line| !line.trim().is_empty()).map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Gpu> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [name, total, free, driver, compute] = fields[..] else { return None };
    let mebibytes = |text: &str| text.parse::<u64>().ok()?.checked_mul(1 << 20);
    Some(Gpu {
        name: name.to_owned(),
        total: mebibytes(total)?,
        free: mebibytes(free)?,
        driver: driver.to_owned(),
        compute: compute.to_owned(),
    })
}

/// What is to compute the answers, as far as GPUs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// This process, and its build uses them.
    Here,
    /// This process, and its build does not.
    Unused,
    /// A server beside it.
    Beside,
}

/// Looks at the GPUs.
pub fn examine(hardware: &Hardware, told: &Told, used: Use) -> Vec<Finding> {
    let needed = used == Use::Here;
    match told {
        Told::NotInstalled => vec![without_tools(hardware, needed)],
        Told::Failed(said) => vec![failed(said, needed)],
        Told::Gpus(gpus) if gpus.is_empty() => vec![failed("No devices were found", needed)],
        Told::Gpus(gpus) if used == Use::Unused => {
            vec![Finding::warning("gpu", format!("{}, which this build does not use", names(gpus)), BUILD)]
        }
        Told::Gpus(gpus) => gpus.iter().map(|gpu| one(gpu, needed)).collect(),
    }
}

const BUILD: &str = "build with --features cuda, or put a server beside it with --engine openai";

fn without_tools(hardware: &Hardware, needed: bool) -> Finding {
    let has_device = exists(Path::new("/dev/nvidiactl"));
    match (hardware.gpus.as_slice(), needed) {
        ([], _) if has_device => Finding::warning(
            "gpu",
            "NVIDIA's devices are here, and neither a GPU nor nvidia-smi is",
            "load the driver: modprobe nvidia, and see what dmesg says",
        ),
        ([], true) => Finding::warning(
            "gpu",
            "none of NVIDIA's, and this build is for them",
            "answers are computed on the CPU; a container needs --gpus all and NVIDIA's container toolkit",
        ),
        ([], false) => Finding::ok("gpu", "none of NVIDIA's; answers are computed on the CPU"),
        (gpus, true) => Finding::warning(
            "gpu",
            format!("{}; how much of its memory is free is not known", gpus.join(", ")),
            "install nvidia-smi, which comes with the driver",
        ),
        (gpus, false) => Finding::warning("gpu", format!("{}, which this build does not use", gpus.join(", ")), BUILD),
    }
}

/// What nvidia-smi says when it fails, and what to do about it.
fn failed(said: &str, needed: bool) -> Finding {
    let first = said.lines().next().unwrap_or_default();
    let text = said.to_lowercase();
    let advice = if text.contains("version mismatch") {
        "the driver was updated while it was loaded: reboot, or unload and load its modules"
    } else if text.contains("couldn't communicate with the nvidia driver") {
        "the driver is not loaded: modprobe nvidia; after a new kernel it must be built anew (dkms autoinstall); Secure Boot \
         refuses one that is not signed (mokutil --sb-state)"
    } else if text.contains("no devices were found") {
        "the driver finds no GPU: check that it sits well and has power; a container needs --gpus all; see dmesg"
    } else if text.contains("gpu is lost") || text.contains("unable to determine the device handle") {
        "a GPU has dropped off the bus: reboot; if it comes again, check power, heat and the slot (dmesg: Xid)"
    } else if text.contains("insufficient permissions") || text.contains("permission denied") {
        "this user may not use the GPU: check the modes of /dev/nvidia*, and the groups video and render"
    } else {
        "run nvidia-smi, and see what dmesg says"
    };
    let found = format!("nvidia-smi: {first}");
    match needed {
        true => Finding::problem("gpu", found, advice),
        false => Finding::warning("gpu", found, advice),
    }
}

fn one(gpu: &Gpu, needed: bool) -> Finding {
    let found = format!(
        "{}, {} of memory, {} of it free, driver {}, compute capability {}",
        gpu.name,
        size(gpu.total),
        size(gpu.free),
        gpu.driver,
        gpu.compute
    );
    let driver = gpu.driver.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if needed && driver.is_some_and(|driver| driver < OLDEST_DRIVER) {
        let advice = format!("CUDA 12 needs a driver of version {OLDEST_DRIVER} or later: update it");
        return Finding::problem("gpu", found, advice);
    }
    let compute =
        gpu.compute.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    if needed && compute.is_some_and(|compute: (u32, u32)| compute < OLDEST_COMPUTE) {
        return Finding::problem(
            "gpu",
            found,
            "too old for this engine: llama.cpp may run on it, with --engine openai",
        );
    }
    match gpu.free < gpu.total / 2 {
        true => Finding::warning("gpu", found, "other programs have most of its memory: nvidia-smi lists them"),
        false => Finding::ok("gpu", found),
    }
}

/// Whether weights of so many bytes fit into GPUs, if it is known how much is free there.
pub fn fits(told: &Told, weights: u64) -> Option<Result<(), String>> {
    let Told::Gpus(gpus) = told else { return None };
    let free: u64 = gpus.iter().map(|gpu| gpu.free).sum();
    match weights > free {
        true => Some(Err(format!("more than the {} of GPU memory that are free", size(free)))),
        false => Some(Ok(())),
    }
}

fn names(gpus: &[Gpu]) -> String {
    gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    const H100: &str = "NVIDIA H100 80GB HBM3, 81559, 81008, 570.86.10, 9.0\n";

    fn gpus(said: &str) -> Told {
        Told::Gpus(parse(said).unwrap())
    }

    #[test]
    fn what_works_is_told_with_its_memory() {
        let told = gpus(&format!("{H100}{H100}"));
        let findings = examine(&Hardware::default(), &told, Use::Here);
        assert_eq!(findings.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Ok, Level::Ok]);
        assert!(findings[0].found.contains("79.6 GiB of memory, 79.1 GiB of it free"), "{}", findings[0].found);
        assert_eq!((fits(&told, 150 << 30), fits(&Told::NotInstalled, 1)), (Some(Ok(())), None));
        assert!(fits(&told, 160 << 30).unwrap().is_err());
        assert_eq!((parse("a, b"), parse("x, [N/A], 1, 2, 3"), parse("")), (None, None, Some(vec![])));
    }

    #[test]
    fn each_failure_is_known_by_what_is_said_and_by_who_needs_the_gpu() {
        for (said, advice) in [
            (
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that …",
                "modprobe",
            ),
            ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.86", "reboot"),
            ("No devices were found", "--gpus all"),
            ("Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot …", "Xid"),
            ("Failed to initialize NVML: Insufficient Permissions", "video"),
            ("Segmentation fault", "dmesg"),
        ] {
            let told = Told::Failed(said.to_owned());
            for (used, level) in
                [(Use::Here, Level::Problem), (Use::Unused, Level::Warning), (Use::Beside, Level::Warning)]
            {
                let findings = examine(&Hardware::default(), &told, used);
                assert_eq!((findings.len(), findings[0].level), (1, level), "{said}");
                assert!(findings[0].advice.contains(advice), "{said}: {}", findings[0].advice);
            }
        }
        let none = examine(&Hardware::default(), &Told::Gpus(Vec::new()), Use::Here);
        assert!(none[0].level == Level::Problem && none[0].advice.contains("container"));
    }

    #[test]
    fn what_is_too_old_or_taken_is_told() {
        for (said, used, level, advice) in [
            ("Tesla T4, 15360, 14900, 470.82.01, 7.5", Use::Here, Level::Problem, "525"),
            ("GeForce GTX 1080, 8192, 8000, 550.1, 6.1", Use::Here, Level::Problem, "too old"),
            ("GeForce GTX 1080, 8192, 8000, 470.1, 6.1", Use::Beside, Level::Ok, ""),
            ("GeForce RTX 4090, 24564, 3000, 570.1, 8.9", Use::Here, Level::Warning, "other programs"),
            (H100, Use::Unused, Level::Warning, "--features cuda"),
        ] {
            let findings = examine(&Hardware::default(), &gpus(said), used);
            assert_eq!(findings[0].level, level, "{said}");
            assert!(findings[0].advice.contains(advice), "{said}: {}", findings[0].advice);
        }
    }

    #[test]
    fn without_tools_the_drivers_own_list_is_what_there_is() {
        let with = Hardware { gpus: vec!["NVIDIA H100".into()], ..Hardware::default() };
        let level = |hardware: &Hardware, used| examine(hardware, &Told::NotInstalled, used)[0].level;
        assert_eq!((level(&with, Use::Here), level(&with, Use::Unused)), (Level::Warning, Level::Warning));
        assert_eq!(level(&Hardware::default(), Use::Here), Level::Warning, "it was built for one");
    }
}
