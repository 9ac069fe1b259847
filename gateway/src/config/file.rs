//! The configuration file: TOML, each setting by the name of its flag. What it says is put where flags would be, unless a
//! flag or the environment says something else, so that there is one place where values are parsed and defaults stand.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Args, Command};
use toml::{Table, Value};

use super::{BooksConfig, ServeConfig};

const FLAG: &str = "--config";
const VARIABLE: &str = "LUMBUNG_CONFIG";
/// Flags that may come before the command, with a value.
const BEFORE_COMMAND: [&str; 3] = [FLAG, "--data-dir", "--database"];

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

/// This command line (the program's name first), with what the configuration file adds to it. The file is named by
/// `--config` or `LUMBUNG_CONFIG`; without either, nothing is added.
pub fn with_file(arguments: Vec<OsString>) -> Result<Vec<OsString>, FileError> {
    let Some(path) = named(&arguments).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from)) else {
        return Ok(arguments);
    };
    let text = std::fs::read_to_string(&path).map_err(|error| FileError::Read { path: path.clone(), error })?;
    let table: Table =
        text.parse().map_err(|error| FileError::Syntax { path: path.clone(), error: Box::new(error) })?;
    let books = BooksConfig::augment_args(Command::new("books").no_binary_name(true));
    let serve = ServeConfig::augment_args(Command::new("serve").no_binary_name(true));
    let serves = is_for_serving(&arguments);
    let mut added = Vec::new();
    for (key, value) in &table {
        let wrong = |reason: String| FileError::Key { path: path.clone(), key: key.clone(), reason };
        let of = |command: &Command| command.get_arguments().find(|arg| arg.get_long() == Some(key)).cloned();
        let (command, arg) = match (of(&books), of(&serve)) {
            (Some(arg), _) => (&books, arg),
            (None, Some(arg)) => (&serve, arg),
            (None, None) => return Err(wrong("there is no such setting (`config reference` lists them)".into())),
        };
        let text = text_of(&arg, value).map_err(wrong)?;
        let flag = OsString::from(format!("--{key}={text}"));
        check(command, key, &flag).map_err(wrong)?;
        let is_meant = command.get_name() == "books" || serves;
        let by_environment = arg.get_env().is_some_and(|name| std::env::var_os(name).is_some());
        if is_meant && !by_environment && !is_given(&arguments, key) {
            added.push(flag);
        }
    }
    Ok(insert(arguments, added))
}

/// The value of `--config`.
fn named(arguments: &[OsString]) -> Option<PathBuf> {
    let mut flags = flags(arguments);
    while let Some(flag) = flags.next() {
        let text = flag.to_string_lossy();
        if text == FLAG {
            return flags.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix(FLAG).and_then(|rest| rest.strip_prefix('=')) {
            return Some(path.into());
        }
    }
    None
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

/// Whether it is `serve` or `config check`, which have more settings than where the books are.
fn is_for_serving(arguments: &[OsString]) -> bool {
    let mut words = Vec::new();
    let mut flags = flags(arguments);
    while let Some(argument) = flags.next() {
        match argument.to_string_lossy() {
            flag if BEFORE_COMMAND.contains(&&*flag) => drop(flags.next()),
            flag if flag.starts_with('-') => {}
            word => words.push(word.into_owned()),
        }
    }
    let mut words = words.iter().map(String::as_str);
    matches!((words.next(), words.next()), (Some("serve"), _) | (Some("config"), Some("check")))
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

/// Has the flag's own parser look at it. What does not go together with others is found later, when all are there.
fn check(command: &Command, key: &str, flag: &OsString) -> Result<(), String> {
    let Err(error) = command.clone().try_get_matches_from([flag]) else { return Ok(()) };
    let is_it = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => name.split([' ', '=']).next() == Some(&format!("--{key}")),
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
