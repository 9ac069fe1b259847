//! The file: each setting by the name of its flag. What it says is put where flags would be, unless a flag or the environment
//! says something else.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use super::{Settings, Tables};

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, say.
    #[error("{}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// It is not TOML.
    #[error("{}: {error}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// One of its keys.
    #[error("{}: {key}: {reason}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A command line with what the file adds to it.
#[derive(Debug, Default)]
pub struct Given {
    /// The command line, the program's name first.
    pub arguments: Vec<OsString>,
    /// Of each table of the file its settings, as flags.
    pub tables: Vec<Vec<OsString>>,
}

impl Settings {
    /// This command line (the program's name first), with what the configuration file adds to it; without a file, nothing.
    pub fn with_file(&self, arguments: Vec<OsString>) -> Result<Given, FileError> {
        let named = self.named(&arguments).or_else(|| std::env::var_os(self.variable).map(PathBuf::from));
        let Some(path) = named else { return Ok(Given { arguments, tables: Vec::new() }) };
        let text = std::fs::read_to_string(&path).map_err(|error| FileError::Read { path: path.clone(), error })?;
        let table: Table =
            text.parse().map_err(|error| FileError::Syntax { path: path.clone(), error: Box::new(error) })?;
        let words = self.words(&arguments);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (mut added, mut tables) = (Vec::new(), Vec::new());
        for (key, value) in &table {
            let wrong = |(key, reason): (String, String)| FileError::Key { path: path.clone(), key, reason };
            if let Some(of_key) = self.tables.as_ref().filter(|tables| tables.key == key) {
                tables = read_tables(of_key, value).map_err(wrong)?;
                continue;
            }
            let found = self.sections.iter().find_map(|section| Some((section, find(&section.command, key)?)));
            let Some((section, arg)) = found else { return Err(wrong((key.clone(), NO_SUCH.to_owned()))) };
            let flag = flag_of(&section.command, &arg, key, value).map_err(|reason| wrong((key.clone(), reason)))?;
            let Some(flag) = flag else { continue };
            let by_environment = arg.get_env().is_some_and(|name| std::env::var_os(name).is_some());
            if (section.is_meant)(&words) && !by_environment && !is_given(&arguments, key) {
                added.push(flag);
            }
        }
        Ok(Given { arguments: insert(arguments, added), tables })
    }

    /// The file that the flag names.
    fn named(&self, arguments: &[OsString]) -> Option<PathBuf> {
        let mut flags = flags(arguments);
        while let Some(flag) = flags.next() {
            let text = flag.to_string_lossy();
            if text == self.flag {
                return flags.next().map(PathBuf::from);
            }
            if let Some(path) = text.strip_prefix(self.flag).and_then(|rest| rest.strip_prefix('=')) {
                return Some(path.into());
            }
        }
        None
    }

    /// The command's words. Values of its own flags may be among the later ones.
    fn words(&self, arguments: &[OsString]) -> Vec<String> {
        let mut words = Vec::new();
        let mut flags = flags(arguments);
        while let Some(argument) = flags.next() {
            match argument.to_string_lossy() {
                flag if self.before_command.contains(&&*flag) => drop(flags.next()),
                flag if flag.starts_with('-') => {}
                word => words.push(word.into_owned()),
            }
        }
        words
    }
}

const NO_SUCH: &str = "there is no such setting (`config reference` lists them)";

/// The settings of each table, as flags.
fn read_tables(tables: &Tables, value: &Value) -> Result<Vec<Vec<OsString>>, (String, String)> {
    let key = tables.key;
    let listed = || (key.to_owned(), format!("tables are expected, each under [[{key}]]"));
    let values = value.as_array().ok_or_else(listed)?;
    let mut read = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let table = value.as_table().ok_or_else(listed)?;
        let mut flags = Vec::new();
        for (name, value) in table {
            let wrong = |reason: String| (format!("{key}[{at}].{name}"), reason);
            let arg = find(&tables.command, name).ok_or_else(|| wrong(NO_SUCH.to_owned()))?;
            flags.extend(flag_of(&tables.command, &arg, name, value).map_err(wrong)?);
        }
        read.push(flags);
    }
    Ok(read)
}

fn find(command: &Command, key: &str) -> Option<Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(key)).cloned()
}

/// What may be a flag: not the program's name, nor what follows `--`.
fn flags(arguments: &[OsString]) -> impl Iterator<Item = &OsString> {
    arguments.iter().skip(1).take_while(|argument| *argument != "--")
}

fn is_given(arguments: &[OsString], key: &str) -> bool {
    let flag = format!("--{key}");
    let mut given = flags(arguments).map(|argument| argument.to_string_lossy());
    given.any(|text| text.strip_prefix(&flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
}

/// A setting as a flag, its value looked at by the flag's own parser. `None` for one without a value that is not set.
fn flag_of(command: &Command, arg: &Arg, key: &str, value: &Value) -> Result<Option<OsString>, String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        let is_set = value.as_bool().ok_or_else(|| format!("true or false is expected, not {}", value.type_str()))?;
        return Ok(is_set.then(|| OsString::from(format!("--{key}"))));
    }
    let flag = OsString::from(format!("--{key}={}", text_of(arg, value)?));
    check(command, key, &flag)?;
    Ok(Some(flag))
}

/// As on a command line.
fn text_of(arg: &Arg, value: &Value) -> Result<String, String> {
    match (value, arg.get_value_delimiter()) {
        (Value::String(text), _) => Ok(text.clone()),
        (Value::Integer(number), _) => Ok(number.to_string()),
        (Value::Boolean(flag), _) => Ok(flag.to_string()),
        (Value::Float(_), _) => Err("numbers with a fraction must be in quotes".into()),
        (Value::Array(values), Some(delimiter)) => {
            let texts: Result<Vec<_>, _> = values.iter().map(|value| text_of(arg, value)).collect();
            Ok(texts?.join(&delimiter.to_string()))
        }
        (value, _) => Err(format!("one value is expected, not {}", value.type_str())),
    }
}

/// What does not go together with others is found later, when all are there.
fn check(command: &Command, key: &str, flag: &OsString) -> Result<(), String> {
    let Err(error) = command.clone().try_get_matches_from([flag]) else { return Ok(()) };
    let is_it = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => name.split([' ', '=', '[']).next() == Some(&format!("--{key}")),
        _ => false,
    };
    if !is_it || error.kind() == ErrorKind::MissingRequiredArgument {
        return Ok(());
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    // "invalid value '0' for '--max-jobs <MAX_JOBS>': why"
    Err(line.split_once("': ").map_or(line, |(_, why)| why).to_owned())
}

/// Behind what is there, but before `--`.
fn insert(mut arguments: Vec<OsString>, added: Vec<OsString>) -> Vec<OsString> {
    let at = 1 + flags(&arguments).count();
    let at = at.min(arguments.len());
    arguments.splice(at..at, added);
    arguments
}
