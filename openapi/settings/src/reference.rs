//! The reference: every setting, from the declarations that the command line is parsed by.

use std::fmt::Write;

use clap::{Arg, Command};

use super::Settings;

impl Settings {
    /// The whole reference, as Markdown below this head.
    pub fn reference(&self, head: &str) -> String {
        let mut text = head.to_owned();
        for section in &self.sections {
            write_section(&mut text, section.title, &section.command);
        }
        text
    }
}

fn write_section(text: &mut String, title: &str, command: &Command) {
    let _ = write!(text, "\n## {title}\n\n| key | environment | default | |\n|---|---|---|---|\n");
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let Some(key) = arg.get_long() else { continue };
        let environment = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let _ = writeln!(text, "| `{key}` | {environment} | {} | {} |", default_of(arg), meaning(arg));
    }
}

fn default_of(arg: &Arg) -> String {
    // What depends on whoever runs the program is told in words.
    if arg.is_hide_default_value_set() {
        return String::new();
    }
    let values: Vec<_> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    values.join(", ")
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
