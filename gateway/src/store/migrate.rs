//! The schema, embedded. How to change it: `migrations/README.md`.

use std::time::Duration;

use sqlx::AnyPool;
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use super::error::StoreError;

const MIGRATIONS: &[(i64, &str, &str)] = &[
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
];

/// Brings the schema up to date.
pub(super) async fn run(pool: &AnyPool) -> Result<(), StoreError> {
    let migration = |(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect());
    // An old replica must go on beside a newer one's schema.
    migrator.set_ignore_missing(true);
    // SQLite has no lock for migrations: where two processes start at once, the one that lost finds all done the next time.
    for wait_ms in [50, 200, 1000] {
        if migrator.run(pool).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
    Ok(migrator.run(pool).await?)
}
