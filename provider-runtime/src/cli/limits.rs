//! What of the machine may be used: memory, and which GPUs.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use super::engine::EngineKind;
use super::model::ModelArgs;
use crate::doctor::{size, weight_bytes};
use crate::hardware;

/// What CUDA reads to know which GPUs there are, once, before anything else.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// What of the machine may be used.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// The most memory that this process may take for its models, such as 12GiB. What does not fit is refused: by its files
    /// before it is loaded, and by what it took afterwards.
    #[arg(long, env = "LUMBUNG_PROVIDER_MAX_MEMORY", value_name = "SIZE", value_parser = parse_size)]
    max_memory: Option<u64>,
    /// The NVIDIA GPUs to use, by number or UUID as nvidia-smi has them: 0, or 0,2. Without it: what CUDA_VISIBLE_DEVICES says, or all.
    #[arg(long, env = "LUMBUNG_PROVIDER_GPUS", value_delimiter = ',', value_name = "GPUS")]
    gpus: Vec<String>,
}

impl LimitArgs {
    /// Starts this program anew where its environment says otherwise about GPUs. To be called before anything else is done.
    pub fn choose_gpus(&self) -> anyhow::Result<()> {
        let chosen = self.gpus.join(",");
        if self.gpus.is_empty() || std::env::var_os(VISIBLE).is_some_and(|visible| *visible == *chosen) {
            return Ok(());
        }
        let program = std::env::current_exe().context("--gpus: where this program is")?;
        let error = Command::new(program).args(std::env::args_os().skip(1)).env(VISIBLE, chosen).exec();
        Err(error).context("--gpus: this program cannot be started anew")
    }

    /// Whether models with these files can fit, together with what is taken already.
    pub fn check_before(&self, models: &[ModelArgs]) -> anyhow::Result<()> {
        let Some(most) = self.max_memory else { return Ok(()) };
        let mut all = hardware::resident();
        for model in models.iter().filter(|model| model.engine.engine == EngineKind::Mistral) {
            let weights = model.engine.model.as_deref().and_then(weight_bytes).unwrap_or(0);
            all = all.saturating_add(weights);
            if all > most {
                let id = model.engine.model_id()?;
                bail!(
                    "'{id}' does not fit: its weights take {}, all together {}, and --max-memory is {}",
                    size(weights),
                    size(all),
                    size(most)
                );
            }
        }
        Ok(())
    }

    /// Whether what this process took by now is allowed.
    pub fn check_after(&self, id: &str) -> anyhow::Result<()> {
        let taken = hardware::resident();
        match self.max_memory {
            Some(most) if taken > most => {
                bail!("'{id}' does not fit: with it {} are taken, and --max-memory is {}", size(taken), size(most))
            }
            _ => Ok(()),
        }
    }
}

/// `12GiB`, `800MiB`, or bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" => 1,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        _ => return Err("the unit must be MiB or GiB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a whole number with a unit is expected: 12GiB".to_owned())?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!((parse_size("12GiB"), parse_size("800 MiB"), parse_size("5")), (Ok(12 << 30), Ok(800 << 20), Ok(5)));
        for wrong in ["", "GiB", "1.5GiB", "-1", "0", "12GB", "99999999999GiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
