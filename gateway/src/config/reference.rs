//! CONFIG.md: every setting, from the declarations that the command line is parsed by.

use std::fmt::Write;

use clap::{Arg, Args, Command};

use super::{BooksConfig, ServeConfig};

const HEAD: &str = "# Configuration of lumbung-gateway

Written by `lumbung-gateway config reference`; a test compares them.

Each setting is a flag (`--max-jobs 100`), a variable of the environment, or a key of a TOML file that `--config` or
`LUMBUNG_CONFIG` names, with the flag's name:

```toml run
listen = \"0.0.0.0:8080\"
public-url = [\"https://api.example\"]
max-jobs = 100
second-usd = \"0.00002\"       # numbers with a fraction in quotes
```

A flag comes before the environment, that before the file, and the file before the default. Unknown keys, and values that are
out of range, are errors that name the key. `lumbung-gateway config check` finds them, and what does not go together,
without starting anything.
";

/// The whole reference, as Markdown.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    section(&mut text, "Every command", &BooksConfig::augment_args(Command::new("books")));
    section(&mut text, "`serve`", &ServeConfig::augment_args(Command::new("serve")));
    text
}

fn section(text: &mut String, title: &str, command: &Command) {
    let _ = write!(text, "\n## {title}\n\n| key | environment | default | |\n|---|---|---|---|\n");
    for arg in command.get_arguments() {
        let Some(key) = arg.get_long() else { continue };
        let environment = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let _ = writeln!(text, "| `{key}` | {environment} | {} | {} |", default_of(arg), meaning(arg));
    }
}

fn default_of(arg: &Arg) -> String {
    let values: Vec<_> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    values.join(", ")
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
