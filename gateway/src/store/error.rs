//! What can go wrong with the books. No SQL in what is displayed: the cause is kept for the log only.

use std::borrow::Cow;

/// Why the books did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or does not answer in time. Trying again later may help.
    #[error("the books cannot be reached")]
    Unavailable(#[source] sqlx::Error),
    /// The database has not answered for so long that whoever asked has gone on. What was asked may still be done.
    #[error("the books do not answer")]
    Silent,
    /// Another process was in the way every time. Trying again may help.
    #[error("the books are busy")]
    Busy(#[source] sqlx::Error),
    /// It contradicts what is in the books already.
    #[error("{0}")]
    Conflict(Cow<'static, str>),
    /// What was named is not in the books.
    #[error("there is no such {0}")]
    Missing(&'static str),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// The books hold something that cannot be.
    #[error("the books are damaged: {0}")]
    Corrupt(Cow<'static, str>),
    /// The schema cannot be brought up to date.
    #[error("the books' schema cannot be brought up to date")]
    Migration(#[source] Box<sqlx::migrate::MigrateError>),
}

/// The kinds of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// See [`StoreError::Unavailable`].
    Unavailable,
    /// See [`StoreError::Busy`].
    Busy,
    /// See [`StoreError::Conflict`].
    Conflict,
    /// See [`StoreError::Missing`].
    Missing,
    /// See [`StoreError::Invalid`].
    Invalid,
    /// See [`StoreError::Corrupt`].
    Corrupt,
    /// See [`StoreError::Migration`].
    Migration,
}

impl StoreErrorKind {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Conflict => "conflict",
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Corrupt => "corrupt",
            Self::Migration => "migration",
        }
    }
}

impl StoreError {
    /// Which kind it is.
    pub fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Unavailable(_) | Self::Silent => StoreErrorKind::Unavailable,
            Self::Busy(_) => StoreErrorKind::Busy,
            Self::Conflict(_) => StoreErrorKind::Conflict,
            Self::Missing(_) => StoreErrorKind::Missing,
            Self::Invalid(_) => StoreErrorKind::Invalid,
            Self::Corrupt(_) => StoreErrorKind::Corrupt,
            Self::Migration(_) => StoreErrorKind::Migration,
        }
    }

    /// Whether the books answered that they do not take it: trying again as it is cannot help.
    pub fn is_refusal(&self) -> bool {
        !matches!(self.kind(), StoreErrorKind::Unavailable | StoreErrorKind::Busy)
    }

    pub(super) fn corrupt(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Corrupt(what.into())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::RowNotFound
                | sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::Decode(_)
                | sqlx::Error::TypeNotFound { .. } => Self::Corrupt(format!("unexpected shape ({error})").into()),
                sqlx::Error::Configuration(_) => Self::Invalid("the database's URL cannot be used"),
                _ => Self::Unavailable(error),
            };
        };
        if database.is_unique_violation() || database.is_foreign_key_violation() {
            return Self::Conflict("it is in the books already, or what it belongs to is not".into());
        }
        if database.is_check_violation() || database.code().as_deref() == Some("22003") {
            return Self::Invalid("a balance would be below zero or beyond what the books can hold");
        }
        // SQLSTATE class 22, "data exception": say, a zero byte in a text.
        if database.code().is_some_and(|code| code.len() == 5 && code.starts_with("22")) {
            return Self::Invalid("a value is of a kind that the books cannot hold");
        }
        // Postgres: serialization failure, deadlock, lock timeout. SQLite: busy (5), locked (6), busy snapshot (517).
        match database.code().as_deref() {
            Some("40001" | "40P01" | "55P03" | "5" | "6" | "517") => Self::Busy(error),
            _ => Self::Unavailable(error),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Migration(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_database_is_unavailable_and_says_no_more() {
        let cause = std::io::Error::other("connection to 10.0.0.1 refused while SELECT secret FROM signing_keys");
        let error = StoreError::from(sqlx::Error::Io(cause));
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert_eq!(error.to_string(), "the books cannot be reached");
        assert_eq!(StoreError::from(sqlx::Error::PoolTimedOut).kind().label(), "unavailable");
    }

    #[test]
    fn a_row_of_the_wrong_shape_is_damage() {
        assert_eq!(StoreError::from(sqlx::Error::ColumnNotFound("x".into())).kind(), StoreErrorKind::Corrupt);
    }
}
