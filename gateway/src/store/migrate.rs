//! The schema, embedded. How to change it: `migrations/README.md`.

use std::time::{Duration, Instant};

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyPool, Executor, SqlSafeStr};
use tracing::warn;

use super::error::StoreError;

/// A migration: its number, its name, its text.
pub type Step = (i64, &'static str, &'static str);

const MIGRATIONS: &[Step] = &[
    (1, "books", include_str!("../../../migrations/0001_books.sql")),
    (2, "limits", include_str!("../../../migrations/0002_limits.sql")),
    (3, "admin", include_str!("../../../migrations/0003_admin.sql")),
    (4, "earnings", include_str!("../../../migrations/0004_earnings.sql")),
    (6, "usage", include_str!("../../../migrations/0006_usage.sql")),
    (7, "tokenizers", include_str!("../../../migrations/0007_tokenizers.sql")),
    (8, "webhooks", include_str!("../../../migrations/0008_webhooks.sql")),
    (9, "modalities and latency", include_str!("../../../migrations/0009_modalities_and_latency.sql")),
    (14, "webhook retention", include_str!("../../../migrations/0014_webhook_retention.sql")),
    (16, "challenges", include_str!("../../../migrations/0016_challenges.sql")),
    (17, "responses", include_str!("../../../migrations/0017_responses.sql")),
    (18, "erasure", include_str!("../../../migrations/0018_erasure.sql")),
];

/// How long Postgres lets a migration wait for a table that others use. Everybody else who wants that table waits behind it,
/// so it must not be longer than what settling does not mind.
const LOCK_WITHIN: &str = "SET lock_timeout = '500ms'";
/// An index that is made of a large table is sorted in a file: the writer's own setting is for small statements.
const SORT_IN_FILES: &str = "PRAGMA temp_store = FILE";
/// How long it is tried again while others (a backup, say) use the table, or another gateway migrates.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for whatever else fails. SQLite has no lock for migrations: where two processes start at once, the one that lost
/// finds all done the next time.
const SHORT_PATIENCE: Duration = Duration::from_millis(1500);
/// How often it is told that this takes long.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How soon it is tried again. Longer than Postgres lets it wait: those behind it get their turn in between.
const AGAIN: Duration = Duration::from_millis(700);

/// Brings the schema up to date, and to what `more` adds to it.
pub(super) async fn run(pool: &AnyPool, more: &[Step]) -> Result<(), StoreError> {
    let migration = |(version, name, sql): &Step| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, (*sql).into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().chain(more).map(migration).collect());
    // An old replica must go on beside a newer one's schema.
    migrator.set_ignore_missing(true);
    let (begun, mut told) = (Instant::now(), None::<Instant>);
    loop {
        let Err(error) = attempt(&migrator, pool).await else { return Ok(()) };
        let others = is_in_others_way(&error);
        if begun.elapsed() >= if others { PATIENCE } else { SHORT_PATIENCE } {
            return Err(error.into());
        }
        if others && told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            warn!(
                %error,
                waited_secs = begun.elapsed().as_secs(),
                gives_up_after_secs = PATIENCE.as_secs(),
                "the schema waits for tables that others use, and this gateway with it; pg_stat_activity has who they are"
            );
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// On a connection that is closed afterwards: one that failed still has Postgres' lock for migrations, and the short patience
/// is not for other work.
async fn attempt(migrator: &Migrator, pool: &AnyPool) -> Result<(), MigrateError> {
    let mut connection = pool.acquire().await?;
    let setting = if connection.backend_name() == "PostgreSQL" { LOCK_WITHIN } else { SORT_IN_FILES };
    connection.execute(setting).await?;
    let done = migrator.run_direct(None, &mut *connection, false).await;
    connection.close().await?;
    done
}

/// Postgres: the lock was not to be had in time, or two waited for each other.
fn is_in_others_way(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return false };
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}
