//! Questions about usage: by account, key, model, provider and day, any of them together, a page at a time. What is not
//! rolled up yet is in every answer.
//!
//! Two tables answer. Without accounts and keys, the network's, a few rows a day. With them, the accounts', which is ordered
//! by account; and so is the answer, so that a page reads its own accounts and no others.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, Row};

use super::sql::query;
use super::usage::{USED, USED_COLUMNS, Used};
use super::{Result, Store, StoreError};
use crate::domain::calendar::Day;
use crate::domain::csv::Csv;
use crate::domain::ids::{AccountId, KeyId, ModelId, ProviderId};

/// The most lines of one page.
pub const MAX_USAGE_LINES: u32 = 1000;

/// What usage is told apart by, in the order of an answer's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageBy {
    /// The customer's account.
    Account,
    /// The API key; its account is told too.
    Key,
    /// The catalogue's model.
    Model,
    /// The provider.
    Provider,
    /// The day, UTC, on which it was settled.
    Day,
}

impl UsageBy {
    fn column(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Key => "api_key",
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Day => "day",
        }
    }
}

impl std::str::FromStr for UsageBy {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "account" => Ok(Self::Account),
            "key" => Ok(Self::Key),
            "model" => Ok(Self::Model),
            "provider" => Ok(Self::Provider),
            "day" => Ok(Self::Day),
            _ => Err(StoreError::Invalid("usage is told apart by account, key, model, provider and day")),
        }
    }
}

/// A question.
#[derive(Clone, Debug, Default)]
pub struct UsageQuestion {
    /// What to tell apart; nothing: one line for all of it.
    pub by: Vec<UsageBy>,
    /// From this day on.
    pub from: Option<Day>,
    /// Up to this day, which is not included.
    pub until: Option<Day>,
    /// Only this account's.
    pub account: Option<AccountId>,
    /// Only with this key.
    pub key: Option<KeyId>,
    /// Only of this model.
    pub model: Option<ModelId>,
    /// Only at this provider.
    pub provider: Option<ProviderId>,
    /// Lines after this one, the last of the page before.
    pub after: Option<UsageCursor>,
    /// Lines at most, up to [`MAX_USAGE_LINES`]; zero: that many.
    pub limit: u32,
}

/// A place between two lines: what the line before it is told apart by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageCursor(Vec<String>);

impl fmt::Display for UsageCursor {
    /// As text that can stand in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!(self.0).to_string()))
    }
}

impl std::str::FromStr for UsageCursor {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        let json = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let names = json.and_then(|json| serde_json::from_slice(&json).ok()).map(Self);
        // Postgres has no text with a zero in it.
        names
            .filter(|cursor| !cursor.0.iter().any(|name| name.contains('\0')))
            .ok_or(StoreError::Invalid("that is no cursor"))
    }
}

/// A line of an answer. What is not told apart is null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageLine {
    /// Whose.
    pub account: Option<String>,
    /// With which key; empty where the gateway died before it could say.
    pub key: Option<String>,
    /// Of which model.
    pub model: Option<String>,
    /// At which provider.
    pub provider: Option<String>,
    /// On which day.
    pub day: Option<Day>,
    /// How much.
    #[serde(flatten)]
    pub used: Used,
}

/// Some lines of an answer, ordered by account, key, model, provider and day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsagePage {
    /// The lines.
    pub lines: Vec<UsageLine>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<UsageCursor>,
}

/// A value of a column.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Day(i64),
}

/// Conditions, all of which must hold, and what they bind. Written once, and used for each table that is read.
#[derive(Default)]
struct Conditions {
    sql: Vec<String>,
    bound: Vec<Value>,
}

impl Conditions {
    fn bind(&mut self, value: Value) -> String {
        self.bound.push(value);
        format!("${}", self.bound.len())
    }

    fn compare(&mut self, column: &str, how: &str, value: Value) {
        let placeholder = self.bind(value);
        self.sql.push(format!("{column} {how} {placeholder}"));
    }

    fn all(&self) -> String {
        if self.sql.is_empty() { "1 = 1".to_owned() } else { self.sql.join(" AND ") }
    }

    fn query(&self, sql: String) -> Query<'static, Any, AnyArguments> {
        self.bound.iter().fold(query(sql), |statement, value| match value {
            Value::Text(text) => statement.bind(text.clone()),
            Value::Day(day) => statement.bind(*day),
        })
    }
}

impl Store {
    /// Answers a question, one page of it. Fails with `Missing` for a key that does not exist, and with `Invalid` for a cursor of another
    /// question's.
    pub async fn usage(&self, question: &UsageQuestion) -> Result<UsagePage> {
        let by = dimensions(question);
        let limit = match question.limit {
            0 => MAX_USAGE_LINES,
            some => some.min(MAX_USAGE_LINES),
        } as usize;
        let is_by_account = by.contains(&UsageBy::Account) || question.account.is_some() || question.key.is_some();
        let table = if is_by_account { "usage_daily" } else { "usage_network" };
        let mut conditions = self.conditions(question).await?;
        let columns: Vec<&str> = by.iter().map(|by| by.column()).collect();
        if let Some(cursor) = &question.after {
            after(&mut conditions, &by, cursor)?;
        }
        if columns.first() == Some(&"account") && question.account.is_none() && question.key.is_none() {
            self.only_this_pages_accounts(&mut conditions, question, limit).await?;
        }

        let sums: Vec<String> =
            USED.split(", ").map(|name| format!("CAST(COALESCE(SUM({name}), 0) AS BIGINT)")).collect();
        let shown: String = columns.iter().map(|column| format!("{column}, ")).collect();
        let (group, order) = match columns.is_empty() {
            true => (String::new(), String::new()),
            false => (format!("GROUP BY {}", columns.join(", ")), format!("ORDER BY {}", columns.join(", "))),
        };
        let wanted = conditions.all();
        let statement = format!(
            "SELECT {shown}{} FROM (SELECT {shown}{USED} FROM {table} WHERE {wanted}
             UNION ALL SELECT {shown}{USED} FROM usage_unrolled WHERE {wanted}) used {group} {order} LIMIT {}",
            sums.join(", "),
            limit + 1
        );
        let mut lines = Vec::new();
        for row in conditions.query(statement).fetch_all(&self.reader).await? {
            let used = Used::read(&row, columns.len())?;
            let mut line = UsageLine { account: None, key: None, model: None, provider: None, day: None, used };
            for (place, by) in by.iter().enumerate() {
                match by {
                    UsageBy::Account => line.account = Some(row.try_get(place)?),
                    UsageBy::Key => line.key = Some(row.try_get(place)?),
                    UsageBy::Model => line.model = Some(row.try_get(place)?),
                    UsageBy::Provider => line.provider = Some(row.try_get(place)?),
                    UsageBy::Day => line.day = Some(Day::from_number(row.try_get(place)?)),
                }
            }
            debug_assert_eq!(row.len(), columns.len() + USED_COLUMNS);
            lines.push(line);
        }
        let has_more = lines.len() > limit;
        lines.truncate(limit);
        let next = if has_more { lines.last().map(|line| cursor(&by, line)) } else { None };
        Ok(UsagePage { lines, next })
    }

    async fn conditions(&self, question: &UsageQuestion) -> Result<Conditions> {
        let mut conditions = Conditions::default();
        let mut account = question.account.map(|account| account.to_string());
        if let Some(key) = &question.key {
            let select = "SELECT account FROM api_keys WHERE id = $1";
            let row = sqlx::query(select).bind(key.to_string()).fetch_optional(&self.reader).await?;
            let owner: String = row.ok_or(StoreError::Missing("key"))?.try_get(0)?;
            account = account.or(Some(owner));
            conditions.compare("api_key", "=", Value::Text(key.to_string()));
        }
        if let Some(account) = account {
            conditions.compare("account", "=", Value::Text(account));
        }
        if let Some(model) = &question.model {
            conditions.compare("model", "=", Value::Text(model.as_str().to_owned()));
        }
        if let Some(provider) = &question.provider {
            conditions.compare("provider", "=", Value::Text(provider.as_str().to_owned()));
        }
        if let Some(day) = question.from {
            conditions.compare("day", ">=", Value::Day(day.number()));
        }
        if let Some(day) = question.until {
            conditions.compare("day", "<", Value::Day(day.number()));
        }
        Ok(conditions)
    }

    /// Each account has a line or more, so a page ends with the account that is `limit` and one further on at the latest:
    /// nothing after it need be read.
    async fn only_this_pages_accounts(
        &self,
        conditions: &mut Conditions,
        question: &UsageQuestion,
        limit: usize,
    ) -> Result<()> {
        let mut beginning = self.conditions(question).await?;
        if let Some(first) = question.after.as_ref().and_then(|cursor| cursor.0.first()) {
            beginning.compare("account", ">=", Value::Text(first.clone()));
        }
        let accounts = limit + 2;
        let last = format!(
            "SELECT COUNT(*), MAX(account) FROM (SELECT DISTINCT account FROM usage_daily WHERE {} ORDER BY account
             LIMIT {accounts}) page",
            beginning.all()
        );
        let row = beginning.query(last).fetch_one(&self.reader).await?;
        let (found, last): (i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        if let (Some(last), true) = (last, found >= accounts as i64) {
            conditions.compare("account", "<=", Value::Text(last));
        }
        Ok(())
    }
}

/// What lines are told apart by, in their order, each once. A key is told with its account.
fn dimensions(question: &UsageQuestion) -> Vec<UsageBy> {
    let mut by = question.by.clone();
    if by.contains(&UsageBy::Key) {
        by.push(UsageBy::Account);
    }
    by.sort();
    by.dedup();
    by
}

fn after(conditions: &mut Conditions, by: &[UsageBy], cursor: &UsageCursor) -> Result<()> {
    let another = || StoreError::Invalid("the cursor is of another question");
    if cursor.0.len() != by.len() || by.is_empty() {
        return Err(another());
    }
    let mut placeholders = Vec::new();
    for (by, text) in by.iter().zip(&cursor.0) {
        let value = match by {
            UsageBy::Day => Value::Day(text.parse::<Day>().map_err(|_| another())?.number()),
            _ => Value::Text(text.clone()),
        };
        placeholders.push(conditions.bind(value));
    }
    let columns: Vec<&str> = by.iter().map(|by| by.column()).collect();
    conditions.sql.push(format!("({}) > ({})", columns.join(", "), placeholders.join(", ")));
    Ok(())
}

fn cursor(by: &[UsageBy], line: &UsageLine) -> UsageCursor {
    let value = |by: &UsageBy| match by {
        UsageBy::Account => line.account.clone(),
        UsageBy::Key => line.key.clone(),
        UsageBy::Model => line.model.clone(),
        UsageBy::Provider => line.provider.clone(),
        UsageBy::Day => line.day.map(|day| day.to_string()),
    };
    UsageCursor(by.iter().map(|by| value(by).unwrap_or_default()).collect())
}

/// Lines of usage as CSV; an empty field where something is not told apart.
pub fn usage_csv(lines: &[UsageLine]) -> String {
    let head = [
        "account",
        "key",
        "model",
        "provider",
        "day",
        "requests",
        "attempts",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "charge_usd",
        "fee_usd",
    ];
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let line = |csv: Csv, line: &UsageLine| {
        let used = &line.used;
        csv.text(&text(&line.account))
            .text(&text(&line.key))
            .text(&text(&line.model))
            .text(&text(&line.provider))
            .number(line.day.map_or_else(String::new, |day| day.to_string()))
            .number(used.requests)
            .number(used.attempts)
            .number(used.prompt_tokens)
            .number(used.cached_tokens)
            .number(used.completion_tokens)
            .number(used.charge)
            .number(used.fee)
            .end()
    };
    lines.iter().fold(Csv::new(&head), line).finish()
}
