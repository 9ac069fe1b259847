//! The configuration file, `config check`, and the reference of all settings.

use std::ffi::OsString;

use anyhow::bail;
use clap::Subcommand;
use lumbung_settings::{Section, Settings, Tables};

use super::Common;
use super::limits::LimitArgs;
use super::model::ModelArgs;
use super::serve::{GatewayArgs, ServeArgs, ServingArgs};

/// The flag that names the file, and the variable.
pub const FLAG: &str = "--config";
pub const VARIABLE: &str = "LUMBUNG_PROVIDER_CONFIG";

/// What to do with the configuration.
#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Find what is wrong with the configuration that `serve` would get, without starting anything.
    Check(Box<ServeArgs>),
    /// Print every setting with its default, as Markdown.
    Reference,
}

/// How settings are named in the file, and which command has which.
pub fn settings() -> Settings {
    Settings {
        flag: FLAG,
        variable: VARIABLE,
        before_command: &[FLAG, "--data-dir", "--log", "--log-level"],
        sections: vec![
            Section::of::<Common>("Every command", |_| true),
            Section::of::<GatewayArgs>("The gateway", |words| {
                is_about_serving(words) || matches!(words, ["earnings" | "payout-details", ..])
            }),
            Section::of::<ModelArgs>("The model, or each of the `[[models]]`", is_about_serving),
            Section::of::<LimitArgs>("What of the machine may be used", is_about_serving),
            Section::of::<ServingArgs>("`serve`", |words| matches!(words, ["serve", ..] | ["config", "check", ..])),
        ],
        tables: Some(Tables::of::<ModelArgs>("models")),
    }
}

fn is_about_serving(words: &[&str]) -> bool {
    matches!(words, ["serve" | "doctor", ..] | ["config", "check", ..])
}

/// What is wrong, as an error; nothing is loaded and nobody asked. `fit`: whether there is room for models.
pub fn check(
    args: &ServeArgs,
    tables: &[Vec<OsString>],
    fit: impl FnOnce(&[ModelArgs]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    let mut expect = |looked_at: anyhow::Result<()>| {
        problems.extend(looked_at.err().map(|error| format!("{error:#}")));
    };
    expect(args.gateway.open().map(drop));
    match args.model.with_others(tables) {
        Ok(models) => {
            models.iter().for_each(|model| expect(model.engine.check()));
            expect(fit(&models));
        }
        Err(error) => expect(Err(error)),
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// The whole reference, as Markdown.
pub fn reference() -> String {
    settings().reference(HEAD)
}

const HEAD: &str = "# Configuration of lumbung-provider

Written by `lumbung-provider config reference`; a test compares them.

Each setting is a flag (`--tunnels 2`), a variable of the environment, or a key of a TOML file that `--config` or
`LUMBUNG_PROVIDER_CONFIG` names, with the flag's name:

```toml run=provider
gateway = \"https://api.example\"
hours = [\"mon-fri 18:00-08:00\", \"sat-sun\"]
only-when-idle = true
max-memory = \"24GiB\"

[[models]]                     # as many as there is room for, each with its slots and its price
model = \"/models/Qwen3-8B\"
model-id = \"qwen/qwen3-8b\"
slots = 4
ask-prompt = \"0.05\"            # numbers with a fraction in quotes
ask-completion = \"0.20\"

[[models]]
engine = \"openai\"
upstream = \"http://127.0.0.1:8000/v1\"
upstream-model = \"Qwen/Qwen3-Embedding-0.6B\"
upstream-supports = [\"input\", \"dimensions\"]
model-id = \"qwen/qwen3-embedding-0.6b\"
```

A flag comes before the environment, that before the file, and the file before the default. A model that flags or the
environment name is served beside those of the file's tables. Unknown keys, and values that are out of range, are errors that name
the key. `lumbung-provider config check` finds them, and what does not go together, without starting anything.
";
