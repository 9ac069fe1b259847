//! Settings of a program: by flag, by variable of the environment, or in a TOML file, in this order of precedence. All three
//! come from one declaration, that of the command line (clap), so there is one place where values are parsed and defaults
//! stand. `file` reads the file, `reference` writes down what there is.

mod file;
mod reference;

use clap::Command;

pub use file::{FileError, Given};

/// What a program can be told.
pub struct Settings {
    /// The flag that names the file.
    pub flag: &'static str,
    /// The variable that names it, where the flag does not.
    pub variable: &'static str,
    /// Flags that may come before the command, with a value.
    pub before_command: &'static [&'static str],
    /// Where the settings are, in the order of the reference.
    pub sections: Vec<Section>,
    /// Tables of settings, if there can be any.
    pub tables: Option<Tables>,
}

/// Settings that the same commands have.
pub struct Section {
    /// Its heading in the reference.
    pub title: &'static str,
    /// Their declarations.
    pub command: Command,
    /// Whether a command has them, by its words.
    pub is_meant: fn(&[&str]) -> bool,
}

/// An array of tables, `[[key]]`, each with settings of its own.
pub struct Tables {
    /// Its key.
    pub key: &'static str,
    /// The declarations of what can be in a table. The environment says nothing about them.
    pub command: Command,
}

impl Section {
    /// Settings with the declarations of `Arguments`.
    pub fn of<Arguments: clap::Args>(title: &'static str, is_meant: fn(&[&str]) -> bool) -> Self {
        Self { title, command: declarations::<Arguments>(), is_meant }
    }
}

impl Tables {
    /// Tables with the declarations of `Arguments`.
    pub fn of<Arguments: clap::Args>(key: &'static str) -> Self {
        let command = declarations::<Arguments>().mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        Self { key, command }
    }
}

fn declarations<Arguments: clap::Args>() -> Command {
    Arguments::augment_args(Command::new("settings").no_binary_name(true))
}
