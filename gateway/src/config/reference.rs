//! How this gateway's settings are named in a file, and the head of CONFIG.md, which is made from them.

use std::ffi::OsString;

use lumbung_settings::{FileError, Section, Settings};

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
    settings().reference(HEAD)
}

/// This command line (the program's name first), with what the configuration file adds to it.
pub fn with_file(arguments: Vec<OsString>) -> Result<Vec<OsString>, FileError> {
    Ok(settings().with_file(arguments)?.arguments)
}

fn settings() -> Settings {
    Settings {
        flag: "--config",
        variable: "LUMBUNG_CONFIG",
        before_command: &["--config", "--data-dir", "--database", "--database-file"],
        sections: vec![
            Section::of::<BooksConfig>("Every command", |_| true),
            Section::of::<ServeConfig>("`serve`", |words| matches!(words, ["serve", ..] | ["config", "check", ..])),
        ],
        tables: None,
    }
}
